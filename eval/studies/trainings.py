"""Runs of train_leap.py for a study: each in its own folder, done once, resumable."""

import importlib
import json
import multiprocessing
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from eval.frame import Options
from eval.stress.lives import forkserver
from leap.arguments import check_at_least, option
from leap.encode.encoder import find_model
from leap.errors import UsageError, first_line
from leap.files import check_writable, write_json

DONE = "arguments.json"


@dataclass(kw_only=True)
class Trained(Options):
    """Options of a study that trains."""

    teacher: str = option("folder, Hub id, or package:NAME, as for train_leap.py")
    texts: list[str] = option("texts to train on, as --data of train_leap.py")
    max_tokens: float = option("tokens that each run sees")
    training: str = option("further arguments of train_leap.py for all runs, quoted", "")
    folder: Path = option("folder of the runs; finished ones are kept", Path("runs/studies"))
    seeds: list[int] = option("of the runs", [0])
    device: str | None = option("torch device to evaluate on", None)

    def __post_init__(self) -> None:
        """See `eval.frame.Options`."""
        super().__post_init__()
        self.texts = [self.texts] if isinstance(self.texts, str) else self.texts
        check_at_least(self, 1, "max_tokens")
        if len(set(self.seeds)) < len(self.seeds):
            raise UsageError(f"--seeds: {self.seeds} names a seed twice: give each once")
        find_model(self.teacher, "--teacher")
        check_writable("--folder", self.folder / DONE)

    def trained(self, name: str, seed: int, arguments: Sequence[str]) -> Path:
        """The folder of the model that `train_leap.py` makes of a run's own arguments.

        Args:
            name: of the run.
            seed: of the run.
            arguments: besides those that all runs share.

        Raises:
            UsageError: training ended with an error, which the message has, or the folder holds another run.
        """
        shared = ["--teacher", self.teacher, "--data", *self.texts, "--max_tokens", str(self.max_tokens)]
        shared += ["--seed", str(seed), *shlex.split(self.training)]
        folder = self.folder / f"{''.join(c if c.isalnum() else '-' for c in name)}-seed-{seed}"
        return trained(folder, [*shared, *arguments])


def trained(folder: Path, arguments: Sequence[str]) -> Path:
    """The model trained by `train_leap.py` with these arguments; trained now unless it exists.

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
    receiver, sender = multiprocessing.Pipe(duplex=False)
    line = [*arguments, "--output_dir", str(folder), "--resume"]
    process = forkserver().Process(target=_train, args=(line, sender))
    process.start()
    process.join()
    if process.exitcode:
        reason = receiver.recv() if receiver.poll() else f"status {process.exitcode}, see above"
        raise UsageError(f"--training: `train_leap.py {shlex.join(line)}` ended with: {reason}")
    write_json(done, {"arguments": list(arguments)})
    return model


def _train(arguments: Sequence[str], sender: Connection) -> None:
    """Entry point of a forked process: train; what ends it with an error is sent, too."""
    sys.argv = ["train_leap.py", *arguments]
    try:
        importlib.import_module("train_leap").main()
    except (Exception, SystemExit) as error:
        sender.send(first_line(error))
        raise
