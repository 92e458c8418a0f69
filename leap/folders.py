"""Atomic writes of folders: beside the target first, then renamed; one line for a full disk."""

import errno
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from leap.errors import UsageError, first_line
from leap.files import check_place


def check_replaceable(argument: str, folder: Path, ours: Callable[[Path], bool] = lambda _: False) -> None:
    """Check before the work that `write_folder` would delete nothing that it should not.

    Args:
        argument: the option that names the folder, for the error.
        folder: where to; it may be absent or empty.
        ours: whether an entry of it is of an earlier result, which the new one replaces.

    Raises:
        UsageError: it is a file, holds something else, or cannot be written.
    """
    check_place(argument, folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{argument}: {str(folder)!r} is a file: give a folder")
    others = [path.name for path in folder.glob("*") if not ours(path)]
    if others:
        raise UsageError(
            f"{argument}: {str(folder)!r} holds {min(others)!r}, and the whole folder would be replaced: "
            "give a new or an empty one"
        )


@contextmanager
def write_folder(target: Path, *, keep: bool = False) -> Iterator[Path]:
    """A folder to write into that takes the place of `target` when the block ends without an error.

    What stood at `target` before stays until then, and is deleted (see `check_replaceable`). Every writer has
    a folder of its own, so several may write one target at a time. A killed one leaves that behind; the next
    writer on the machine clears it away.

    Args:
        target: where to.
        keep: where another writer was first, leave what it made: for a cache, in which both are the same.

    Raises:
        UsageError: the disk is full or cannot be written to; nothing new is left behind.
    """
    target = Path(target)
    mine = f".{target.name}.{socket.gethostname()}."
    partial = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_away(target, mine)
        partial = Path(tempfile.mkdtemp(".partial", f"{mine}{os.getpid()}.", target.parent))
        partial.chmod(0o755)  # mkdtemp lets only its owner in
        yield partial
        for path in [*partial.rglob("*"), partial]:
            _sync(path)
        _take_place(partial, target, keep)
        _sync(target.parent)
    except (OSError, SafetensorError) as error:
        raise UsageError(
            f"cannot write {str(target)!r} ({first_line(error)}): make room there and start again; what was "
            "there before is whole"
        ) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def _take_place(partial: Path, target: Path, keep: bool) -> None:
    replaced: list[Path] = []
    while True:
        try:
            partial.rename(target)
            break
        except OSError as error:
            # Whether something is there is read from the error: by now another writer may have moved it away.
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
        if keep:
            break
        # A name of its own each time, as other writers may come first more than once.
        away = partial.with_suffix(f".{len(replaced)}.replaced")
        try:
            target.rename(away)
        except FileNotFoundError:
            continue  # another writer moved it away just now
        replaced.append(away)
    for folder in replaced:
        shutil.rmtree(folder, ignore_errors=True)


def _clear_away(target: Path, mine: str) -> None:
    """Remove what killed processes of this machine left; what they had moved away only if it was replaced."""
    for path in target.parent.iterdir():
        process, _, rest = path.name.removeprefix(mine).partition(".")
        if not path.name.startswith(mine) or not process.isdigit() or _is_alive(int(process)):
            continue
        if rest.endswith(".partial") or (rest.endswith(".replaced") and target.exists()):
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(process: int) -> bool:
    if os.name == "nt":
        return True  # it may be: this question would end it there
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, reach the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
