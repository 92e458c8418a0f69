"""Write whole or not at all: beside the target first, then rename; and a full disk is said in one line."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from leap.errors import UsageError, first_line


@contextmanager
def write_folder(target: Path) -> Iterator[Path]:
    """A folder to write into that takes the place of `target` when the block ends without an error.

    What stood at `target` before stays until then. A killed process leaves a `.partial` folder, which the
    next writer of the same target clears away.

    Raises:
        UsageError: the disk is full, or takes the files not for another reason; nothing new is left of them.
    """
    target = Path(target)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        for path in [*partial.rglob("*"), partial]:
            _sync(path)
        replaced = target.with_name(f".{target.name}.replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        if target.exists():
            target.rename(replaced)
        partial.rename(target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UsageError(
            f"cannot write {str(target)!r} ({first_line(error)}): make room there and start again; what was "
            "there before is whole"
        ) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _sync(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def reserve(file: Path) -> None:
    """Have the file's full size on the disk, before it is written through a memory map.

    Where there is no room for a page of such a map, the process is killed; this raises an error instead.

    Raises:
        OSError: the disk is full.
    """
    if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
        with file.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, reach the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
