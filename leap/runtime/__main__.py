"""`python -m leap.runtime export`: write a model's ONNX files."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers.utils import logging

from leap.runtime.export import export


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status: 0, or 2 for a wrong argument.

    Args:
        argv: the arguments; None: those of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m leap.runtime", description="LEAP outside of torch")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("export", help="write the ONNX files, float32 and int8")
    command.add_argument("--model", type=Path, required=True, help="folder of the checkpoint")
    command.add_argument("--output", type=Path, required=True, help="folder to write, usually MODEL/onnx")
    args = parser.parse_args(argv)
    logging.disable_progress_bar()
    try:
        files = export(args.model, args.output)
    except (ValueError, OSError) as error:
        print(f"{parser.prog} {args.command}: error: {error}", file=sys.stderr)
        return 2
    for file in files:
        print(f"{(args.output / file).stat().st_size / 2**20:8.1f} MiB  {args.output / file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
