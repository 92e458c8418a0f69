"""Release the model on the Hub: `python -m leap.publish --repository OWNER/NAME`.

    python -m leap.publish --repository OWNER/NAME --dry_run     # everything but the login and the upload
    python -m leap.publish --repository OWNER/NAME --depth leap  # the leap path, as a plain BERT

Builds the folder of the Hub from this tree (weights, tokenizer, code, the card as README.md, what
sentence-transformers reads, ONNX graphs, evaluation entries, results, licence, SHA256SUMS). It refuses where
card, config, weights and graphs are not of the same model and exit rule. `python -m eval card --check` says
whether the card is what results/ say. The login is that of `hf auth login` or HF_TOKEN.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging as transformers_logging

from leap.arguments import OptionsParser, option
from leap.errors import UsageError
from leap.folders import check_replaceable, write_folder
from leap.publish.checks import check_onnx, check_weights, read_card
from leap.publish.folder import SUMS, File, check_required, collect, listing, write
from leap.publish.hub import check_name, check_push, push
from leap.publish.leap_depth import write_leap_depth


@dataclass(kw_only=True)
class Options:
    """The command line."""

    repository: str = option("OWNER/NAME on the Hub; created if it does not exist")
    folder: Path = option("the tree to release", Path("."))
    dry_run: bool = option("check and list everything; no login, no upload", False)
    depth: Literal["exit", "leap"] = option("leap: the leap path alone, as a plain BERT", "exit")
    without_onnx: bool = option("release no ONNX graphs", False)
    output: Path | None = option(
        "keep the Hub folder here, replacing an older one; none: do not keep it", None
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status: 0, or 2 with one line that says what is wrong.

    Args:
        argv: the arguments; None: those of the process.
    """
    parser = OptionsParser(Options, prog="python -m leap.publish", description=__doc__.splitlines()[0])
    options = parser.parse(argv)
    transformers_logging.disable_progress_bar()
    hub_logging.set_verbosity_error()  # it logs every attempt with its signed URL
    try:
        _publish(options)
    except UsageError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    return 0


def _publish(options: Options) -> None:
    """All steps, cheap checks first.

    Raises:
        UsageError: something is missing or disagrees, or the Hub refuses.
    """
    if not options.folder.is_dir():
        raise UsageError(f"--folder: there is no folder {str(options.folder)!r}: give the one to release")
    if options.output is not None:
        earlier = _released(options.output)
        check_replaceable("--output", options.output, lambda path: path.name in earlier)
    if options.dry_run:
        check_name(options.repository, "--repository")
    else:
        check_push(options.repository, "--repository")
    if options.depth == "leap":
        _release(options, lambda folder: write_leap_depth(options.folder, folder, options.repository))
        return
    check_required(options.folder)
    card, measured = read_card(options.folder, options.repository)
    files = collect(options.folder, card, with_onnx=not options.without_onnx)
    check_weights(options.folder, measured)
    if not options.without_onnx:
        check_onnx(options.folder)

    _release(options, lambda folder: write(folder, files, {"README.md": card}))


def _release(options: Options, build: Callable[[Path], list[File]]) -> None:
    """Build the folder of the Hub, list it and send it."""
    with _folder(options.output) as folder:
        released = build(Path(folder))
        print(listing(released))
        if options.dry_run:
            print(f"--dry_run: nothing was sent to {options.repository}")
            return
        remedy = "it is as it was, or has all of this: publish again"
        commit = push(
            Path(folder), options.repository, "--repository", remedy=remedy, message="Release", exact=True
        )
    print(f'{commit.commit_url}\nrevision="{commit.oid}"')


def _released(folder: Path) -> set[str]:
    """What an earlier call has written into a folder: the first part of every path."""
    sums = folder / SUMS
    lines = sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else []
    return {line.partition("  ")[2].partition("/")[0] for line in lines} | ({SUMS} if lines else set())


def _folder(output: Path | None) -> AbstractContextManager[Path | str]:
    """Where the Hub's folder is built: a copy, so that what is listed is what is uploaded."""
    return tempfile.TemporaryDirectory() if output is None else write_folder(output)


if __name__ == "__main__":
    sys.exit(main())
