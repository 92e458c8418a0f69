"""Command line of the evaluations: what all of them take, and errors of one line."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from leap.errors import UsageError


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage before it that hides what is wrong."""

    def error(self, message: str) -> NoReturn:
        """Print `message` and leave with status 2, as argparse does."""
        self.exit(2, f"{self.prog}: error: {message} (--help lists the arguments)\n")


def add_common_arguments(parser: argparse.ArgumentParser, *, batch_size: bool = True) -> None:
    """Add what every evaluation takes: model, data, output and how to run.

    Args:
        parser: where to.
        batch_size: with `--batch_size`; an evaluation that chooses its batches itself goes without.
    """
    parser.add_argument(
        "--model",
        required=True,
        help="folder, Hub id, or package:NAME for the folder model/ of an installed Python package",
    )
    parser.add_argument("--split", default="test", help="split of the data (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file to write; its folder is made (default: none)")
    if batch_size:
        parser.add_argument(
            "--batch_size", type=positive, default=64, help="texts a forward pass (%(default)s)"
        )
    parser.add_argument("--device", help="torch's name of a device (default: the GPU where there is one)")
    parser.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="run the modelling code that lies beside the checkpoint, not this tree's",
    )


def add_exit_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the exit rule of an evaluation at one threshold."""
    parser.add_argument(
        "--exit_threshold",
        type=_threshold,
        default="config",
        help="theta (default: the model's own, of its config)",
    )
    parser.add_argument("--min_exit_layer", type=positive, help="l_min, from 1 (default: the model's own)")


def _threshold(text: str) -> float | str:
    return text if text == "config" else float(text)


def positive(text: str) -> int:
    """An integer of at least 1, as the type of an argument."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def numbers(kind: type) -> Any:
    """The type of an argument that is a list such as 0.9,0.95."""

    def parse(text: str) -> list[Any]:
        return [kind(part) for part in text.split(",")]

    parse.__name__ = f"comma-separated list of {kind.__name__}"  # argparse puts it into its errors
    return parse


def add_texts_argument(parser: argparse.ArgumentParser, *, default: str | None = None) -> None:
    """Add `--data` of an evaluation of texts, as `leap.text.samples.load_texts_or_pairs` reads them.

    Args:
        parser: where to.
        default: a set; None: the argument is required.
    """
    parser.add_argument(
        "--data",
        required=default is None,
        default=default,
        help="texts (.txt, .jsonl, .json, .parquet, also .gz), or pairs: CSV, stsb, STS12 ... or a Hub id"
        + (" (%(default)s)" if default else ""),
    )


def add_plot_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--plot` of an evaluation that draws its figures."""
    parser.add_argument(
        "--plot",
        type=Path,
        nargs="+",
        default=[],
        help="pictures to write, .png, .svg or .pdf (default: none)",
    )


def check_plots(paths: Sequence[Path]) -> None:
    """Find out before hours of work that pictures could not be drawn or written.

    Raises:
        UsageError: as `check_writable`, an ending that names no kind of picture, or matplotlib is missing.
    """
    for path in paths:
        check_writable("--plot", path)
        # Here: matplotlib takes long to load and is not needed otherwise.
        from eval.plot import check_format

        check_format("--plot", path)


def check_writable(argument: str, path: Path | None) -> None:
    """Find out before hours of work that a result could not be written at `path`.

    Raises:
        UsageError: it is a folder, or its folder can be neither made nor written to.
    """
    if path is None:
        return
    if path.is_dir():
        raise UsageError(f"{argument}: {str(path)!r} is a folder: give a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.parent / f".{path.name}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"{argument}: cannot write {str(path)!r} ({error.strerror}): give another place"
        ) from error
