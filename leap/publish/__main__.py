"""Release the model on the Hub: `python -m leap.publish --repository OWNER/NAME`.

    python -m leap.publish --repository OWNER/NAME --dry_run     # everything but the login and the upload
    python -m leap.publish --repository OWNER/NAME --depth leap  # the leap path, as a plain BERT

Builds the folder of the Hub from this tree (weights, tokenizer, code, the card as README.md, what
sentence-transformers reads, ONNX graphs, evaluation entries, results, licence, SHA256SUMS). It refuses where
card, config, weights and graphs are not of the same model and exit rule. `python -m eval card --check` says
whether the card is what results/ say. The login is that of `hf auth login` or HF_TOKEN.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging as transformers_logging

from leap.arguments import OneLineParser
from leap.errors import UsageError
from leap.folders import write_folder
from leap.publish.checks import check_onnx, check_weights, read_card
from leap.publish.folder import SUMS, File, check_required, collect, listing, write
from leap.publish.hub import check_name, check_push, push
from leap.publish.leap_depth import write_leap_depth


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status: 0, or 2 with one line that says what is wrong.

    Args:
        argv: the arguments; None: those of the process.
    """
    args = _parser().parse_args(argv)
    transformers_logging.disable_progress_bar()
    hub_logging.set_verbosity_error()  # it logs every attempt with its signed URL
    try:
        _publish(args)
    except UsageError as error:
        print(f"python -m leap.publish: error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="python -m leap.publish", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--repository", required=True, metavar="OWNER/NAME", help="on the Hub; made where there is none"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("."), help="the tree to release (default: this folder)"
    )
    parser.add_argument(
        "--dry_run", "--dry-run", action="store_true", help="check and list everything; no login, no upload"
    )
    parser.add_argument(
        "--depth", choices=["exit", "leap"], default="exit", help="leap: the leap path alone, as a plain BERT"
    )
    parser.add_argument("--without_onnx", action="store_true", help="release no ONNX graphs")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="keep the Hub's folder here, replaced")
    return parser


def _publish(args: argparse.Namespace) -> None:
    """All steps, cheap checks first.

    Raises:
        UsageError: something is missing or disagrees, or the Hub refuses.
    """
    if not args.folder.is_dir():
        raise UsageError(f"--folder: there is no folder {str(args.folder)!r}: give the one to release")
    _check_output(args.output)
    if args.dry_run:
        check_name(args.repository, "--repository")
    else:
        check_push(args.repository, "--repository")
    if args.depth == "leap":
        _release(args, lambda folder: write_leap_depth(args.folder, folder, args.repository))
        return
    check_required(args.folder)
    card, measured = read_card(args.folder, args.repository)
    files = collect(args.folder, card, with_onnx=not args.without_onnx)
    check_weights(args.folder, measured)
    if not args.without_onnx:
        check_onnx(args.folder)

    _release(args, lambda folder: write(folder, files, {"README.md": card}))


def _release(args: argparse.Namespace, build: Callable[[Path], list[File]]) -> None:
    """Build the folder of the Hub, list it and send it."""
    with _folder(args.output) as folder:
        released = build(Path(folder))
        print(listing(released))
        if args.dry_run:
            print(f"--dry_run: nothing was sent to {args.repository}")
            return
        remedy = "it is as it was, or has all of this: publish again"
        commit = push(
            Path(folder), args.repository, "--repository", remedy=remedy, message="Release", exact=True
        )
    print(f'{commit.commit_url}\nrevision="{commit.oid}"')


def _check_output(output: Path | None) -> None:
    """Raise a UsageError unless `output` is new, empty, or a folder that an earlier call has built."""
    if output is None or not output.exists():
        return
    if not output.is_dir() or (any(output.iterdir()) and not (output / SUMS).is_file()):
        raise UsageError(f"--output: {str(output)!r} is there and is no earlier release: give a new folder")


def _folder(output: Path | None) -> AbstractContextManager[Path | str]:
    """Where the Hub's folder is built: a copy, so that what is listed is what is uploaded."""
    return tempfile.TemporaryDirectory() if output is None else write_folder(output)


if __name__ == "__main__":
    sys.exit(main())
