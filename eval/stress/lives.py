"""Start programs of this project, kill them at a chosen moment, start them again.

Each run is a process forked from a server with the libraries loaded, so that it starts within a second and
kills hit the work and not the imports.
"""

import importlib
import multiprocessing
import multiprocessing.context
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PRELOAD = ["train_leap", "encode_corpus"]
POLL = 0.0002  # seconds between checks of what a process has written


def warm_up() -> None:
    """Start the server, so that the first run takes no longer than the others."""
    process = forkserver().Process(target=os.getpid)
    process.start()
    process.join()


def forkserver() -> multiprocessing.context.ForkServerContext:
    """Starts processes that have the libraries and programs loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


@dataclass(frozen=True)
class Life:
    """How a process ended.

    Attributes:
        seconds: it ran.
        exit_code: 0 for a finished run, -9 for a killed one.
        first_write: seconds until it was first seen writing; None if it was not.
        torn: it was killed inside a write: it left something half written that was not there before.
        began_at: what its progress bar showed first (steps or rows), None if it did not come so far.
        reached: what it showed last.
        log: all that it printed.
    """

    seconds: float
    exit_code: int
    first_write: float | None
    torn: bool
    began_at: int | None
    reached: int | None
    log: str

    @property
    def killed(self) -> bool:
        """Whether it was killed before it ended."""
        return self.exit_code == -signal.SIGKILL

    @property
    def error(self) -> str:
        """The program's last line."""
        return (self.log.strip().splitlines() or [""])[-1]


def live(
    program: str,
    arguments: Sequence[str],
    log: Path,
    total: int | str,
    half_written: Callable[[], set[Path]],
    kill_after: float | None = None,
    while_writing: bool = False,
) -> Life:
    """Run a program in one thread until it ends or is killed.

    Args:
        program: the module whose `main` it is.
        arguments: of its command line.
        log: file that gets what it prints.
        total: what its progress bar counts to, or a pattern of it.
        half_written: the files and folders on the disk that are being written, or were when a life ended.
        kill_after: seconds after which it is killed with SIGKILL; None: not at all.
        while_writing: kill it when it next writes a file, from then on.
    """
    process = forkserver().Process(target=run_program, args=(program, list(arguments), str(log)))
    first_write = None

    def torn() -> set[tuple[str, int]]:
        found = set()
        for path in half_written():
            with suppress(OSError):  # renamed meanwhile
                found.add((path.name, path.stat().st_ino))
        return found

    before = torn()
    since = time.perf_counter()
    process.start()
    while process.is_alive():
        now = time.perf_counter() - since
        due = kill_after is not None and now >= kill_after
        if due and not while_writing:
            process.kill()
        elif (first_write is None or due) and torn() - before:
            first_write = first_write or now
            if due:
                process.kill()
        time.sleep(POLL)
    process.join()
    text = log.read_text(errors="replace").replace("\r", "\n") if log.exists() else ""
    shown = [int(number) for number in re.findall(rf"(\d+)/{total} \[", text)]
    return Life(
        time.perf_counter() - since,
        process.exitcode or 0,
        first_write,
        bool(torn() - before),
        shown[0] if shown else None,
        shown[-1] if shown else None,
        text,
    )


def run_program(program: str, arguments: list[str], log: str) -> None:
    """Entry point of a forked process: run a program in one thread, what it prints going to a file."""
    import torch
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())  # not between processes: a killed one would leave a semaphore behind
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.environ["ACCELERATE_USE_CPU"] = "true"
    torch.set_num_threads(1)
    sys.argv = [f"{program}.py", *arguments]
    importlib.import_module(program).main()


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[int], None] | None]:
    """An in-memory file system of `size` bytes at `folder`; yields a function that resizes it.

    Yields None where this process may not mount one.
    """
    folder.mkdir(parents=True)

    def mount(options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            return subprocess.run(command, capture_output=True, check=False).returncode == 0
        except OSError:
            return False

    if not mount(f"size={size}"):
        yield None
        return
    try:
        yield lambda size: mount(f"remount,size={size}") and None
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
