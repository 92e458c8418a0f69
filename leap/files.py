"""Atomic writes and checksums."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile

from leap.errors import UsageError, first_line


@dataclass(frozen=True)
class Written:
    """Summary of a command that writes its files itself, for `python -m eval` to print."""

    summary: str


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write that takes the name `path` only when the block ends without an error.

    It is written beside `path` (a rename is atomic within one file system only) and reaches the disk before
    the rename, so that neither a crash nor a second writer leaves a torn file. Missing folders are made.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # mkstemp makes files that only their owner reads: keep an existing file's mode, or take the usual one.
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def check_writable(argument: str, path: Path | None) -> None:
    """Check before hours of work that a file can be written.

    Args:
        argument: the option that names it, for the error.
        path: of the file; None: none is asked for.

    Raises:
        UsageError: it is a folder, or as `check_place`.
    """
    if path is None:
        return
    if path.is_dir():
        raise UsageError(f"{argument}: {str(path)!r} is a folder: give a file in it")
    check_place(argument, path)


def check_place(argument: str, path: Path) -> None:
    """Raise a UsageError if the folder that is to hold `path` can be neither made nor written to.

    Nothing is made: the lowest folder above it that is there must be one that can be written to.
    """
    try:
        with tempfile.TemporaryFile(
            dir=next(folder for folder in path.absolute().parents if folder.exists())
        ):
            pass
    except OSError as error:
        raise UsageError(
            f"{argument}: cannot write {str(path)!r} ({error.strerror}): give another place"
        ) from error


@contextmanager
def reading_cache(argument: str, path: Path) -> Iterator[None]:
    """Say in one line that the arrays of a cache at `path` are damaged, and what to do.

    Raises:
        UsageError: within the block numpy cannot read them.
    """
    try:
        yield
    except (OSError, ValueError, EOFError, KeyError, BadZipFile) as error:
        reason = first_line(error).partition(". ")[0]  # what follows may advise to unpickle
        raise UsageError(f"{argument}: {str(path)!r} is damaged ({reason}): remove it") from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as indented JSON, atomically, keys in the order given.

    Raises:
        ValueError: `content` holds NaN or infinity, which are not JSON.
        OSError: as `atomic_write`.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_write(path) as file:
        file.write(text.encode())


def checksum(rows: Iterable[object]) -> str:
    """sha256, in hex, of the rows as JSON lines.

    It is taken over what was read and not over the file, so that a local copy of a data set and the Hub's,
    whose files differ, have the same checksum when their rows are the same.
    """
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, ensure_ascii=False).encode())
        digest.update(b"\n")
    return digest.hexdigest()
