"""Runs of train_leap.py as an evaluation needs them: each in a folder of its own, done once, resumed."""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from leap.arguments import check_writable, numbers, positive
from leap.errors import UsageError
from leap.files import write_json

ROOT = Path(__file__).resolve().parents[2]
DONE = "arguments.json"
CHECKPOINT_STEPS = 100


def trained(folder: Path, arguments: Sequence[str]) -> Path:
    """The model that `train_leap.py` makes with these arguments; trained where it is not there yet.

    A run that was stopped goes on from its newest checkpoint.

    Args:
        folder: of the run, its --output_dir.
        arguments: all others.

    Returns:
        The folder of the model.

    Raises:
        UsageError: training ended with an error, which the message has, or `folder` holds another run.
    """
    done, model = folder / DONE, folder / "model"
    if done.is_file():
        before = json.loads(done.read_text())["arguments"]
        if before != list(arguments):
            raise UsageError(
                f"--folder: {folder} holds a run of `{shlex.join(before)}`: give another folder, or remove it"
            )
        return model
    command = [sys.executable, str(ROOT / "train_leap.py"), *arguments, "--output_dir", str(folder)]
    command += ["--resume", "--checkpoint_steps", str(CHECKPOINT_STEPS)]
    status, said = _watched(command)
    if status:
        reason = (said.strip().splitlines() or ["no word of why"])[-1]
        raise UsageError(f"--training: `{shlex.join(command[1:])}` ended with: {reason}")
    write_json(done, {"arguments": list(arguments)})
    return model


def _watched(command: list[str]) -> tuple[int, str]:
    """Run it with its progress bar passed on as it moves; its status, and the end of what it said there."""
    said = b""
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        while chunk := os.read(process.stderr.fileno(), 4096):
            sys.stderr.buffer.write(chunk)
            sys.stderr.flush()
            said = (said + chunk)[-10_000:]
    return process.returncode, said.decode(errors="replace")


def add_training_arguments(parser: argparse.ArgumentParser, folder: str) -> None:
    """Add what an evaluation takes that trains; `folder` is the default of `--folder`."""
    parser.add_argument(
        "--teacher", required=True, help="folder, Hub id, or package:NAME, as for train_leap.py"
    )
    parser.add_argument("--data", required=True, nargs="+", help="texts, as for train_leap.py")
    parser.add_argument("--max_steps", required=True, type=positive, help="optimizer steps of each run")
    parser.add_argument(
        "--training",
        default="",
        metavar="'ARGUMENTS'",
        help="further arguments of train_leap.py for all runs, such as '--max_length 64 --student MODEL'",
    )
    parser.add_argument(
        "--folder", type=Path, default=Path(folder), help="of the runs; what is done is kept (%(default)s)"
    )
    parser.add_argument("--seeds", type=numbers(int), default=[0], help="such as 0,1,2 (default: 0)")
    parser.add_argument(
        "--sts", default="stsb", help="pairs with the splits validation and test (%(default)s)"
    )
    parser.add_argument("--device", help="torch's name of a device to evaluate on (default: the GPU, if any)")
    parser.add_argument("--output", type=Path, help="JSON file to write (default: none)")


def check_training_arguments(args: argparse.Namespace) -> None:
    """Find out before the work what is wrong with the arguments of `add_training_arguments`.

    Raises:
        UsageError: a seed given twice, or a place that cannot be written.
    """
    if len(set(args.seeds)) < len(args.seeds):
        raise UsageError(f"--seeds: {args.seeds} names a seed twice: give each once")
    check_writable("--output", args.output)
    check_writable("--folder", args.folder / DONE)


def common_arguments(args: argparse.Namespace, seed: int) -> list[str]:
    """What all runs of a seed are given."""
    said = ["--teacher", args.teacher, "--data", *args.data, "--max_steps", str(args.max_steps)]
    return [*said, "--seed", str(seed), *shlex.split(args.training)]
