"""train_leap.py in two processes."""

import os
import shutil
import socket
from pathlib import Path

import pytest
import torch
from training import Run, command, launched, rows, weights

from eval.stress.lives import forkserver, run_program


def train_as(rank: int, port: int, arguments: list[str], log: str) -> None:
    """One of two processes, as `torchrun` starts it."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank)}
    os.environ.update(address, LOCAL_RANK=str(rank))
    run_program("train_leap", arguments, log)


def forked(work: Path, output: str, *arguments: str) -> Path:
    """Train in two processes, forked from one that has loaded the libraries."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    _, *given = command(work, output, *arguments)
    logs = [work / f"{output}-{rank}.log" for rank in range(2)]
    processes = [
        forkserver().Process(target=train_as, args=(rank, port, given, str(log)))
        for rank, log in enumerate(logs)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
    assert [process.exitcode for process in processes] == [0, 0], [log.read_text() for log in logs]
    return work / output


def assert_same_training(first: Path, second: Path) -> None:
    """The same batches, and weights that differ by rounding."""
    tensors = weights(second)
    for name, tensor in weights(first).items():
        if name.endswith("key.bias"):
            continue  # softmax does not see it, so rounding is all its gradient
        torch.testing.assert_close(
            tensors[name], tensor, atol=2e-5, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )
    tokens = [[row["tokens"] for row in rows(folder) if "tokens" in row] for folder in (first, second)]
    assert tokens[0] == tokens[1]


@pytest.fixture(scope="module")
def halves(work: Path) -> list[str]:
    """Evaluated at steps that are no multiple of --log_steps, which once made two processes wait for ever."""
    arguments = ["--eval_data", str(work / "sts.csv"), "--eval_steps", "3", "--log_steps", "2"]
    arguments += ["--full_depth_every", "1", "--gradient_accumulation_steps", "2"]
    arguments += ["--recipe", "paper"]  # L_contrast gathers over processes
    return [*arguments, "--batch_size", "4", "--checkpoint_minutes", "0"]


@pytest.fixture(scope="module")
def two(work: Path, halves: list[str]) -> Path:
    """A run of two processes."""
    return forked(work, "two", *halves)


def test_two_processes_do_what_one_does(run: Run, halves: list[str], two: Path) -> None:
    assert_same_training(run("one", *halves, "--batch_size", "8"), two)


@pytest.mark.slow
def test_two_processes_resume(work: Path, halves: list[str], two: Path) -> None:
    """From a checkpoint at a step that is no multiple of what is logged or evaluated every so many steps."""
    newest = max((two / "checkpoints").iterdir())
    before = min((two / "checkpoints").iterdir())
    assert int(before.name[-1]) == int(newest.name[-1]) - 1
    shutil.copytree(before, work / "two-resumed" / "checkpoints" / before.name)
    resumed = forked(work, "two-resumed", *halves, "--resume")
    first, second = weights(two), weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    # What was summed for a report before the kill is not in the checkpoint: of that one row the means differ.
    assert [row["step"] for row in rows(two)] == [row["step"] for row in rows(resumed)]


@pytest.mark.slow
def test_torchrun_does_what_forked_processes_do(
    work: Path, repo_root: Path, halves: list[str], two: Path
) -> None:
    started = launched(work, repo_root, "torchrun", *halves, processes=2)
    assert_same_training(started, two)
