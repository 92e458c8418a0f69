"""Resolve a path, folder, glob or URL to files."""

import glob
import os
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, FileType

from leap.errors import UsageError, first_line
from leap.text.formats import file_format


def local_files(name: str) -> list[str] | None:
    """The files of a path, folder or glob, sorted; None if it looks like a Hub id."""
    path = Path(name).expanduser()
    if path.is_file():
        return [str(path)]
    found = [path] if path.is_dir() else [Path(hit) for hit in glob.glob(_pattern(path), recursive=True)]
    files: set[str] = set()
    for hit in found:
        if hit.is_file():
            files.add(str(hit))
        for folder, below, names in os.walk(hit):
            below[:] = [each for each in below if not each.startswith(".")]
            files.update(os.path.join(folder, each) for each in names if not each.startswith("."))
    looks_local = found or any(c in name for c in "*?[") or name.startswith((".", "/", "~"))
    on_hub = not looks_local and name.count("/") <= 1 and not file_format(name)
    return None if on_hub else sorted(files)


def _pattern(path: Path) -> str:
    """The glob, in which an existing folder is taken literally, brackets included."""
    known = Path(path.anchor)
    rest = path.parts[1:] if path.anchor else path.parts
    pattern = path.anchor
    for part in rest:
        known /= part
        pattern = os.path.join(pattern, glob.escape(part) if known.exists() else part)
    return pattern


def remote_files(address: str, argument: str) -> list[str]:
    """The files at a URL that pyarrow can open, such as s3://bucket/folder, sorted."""
    try:
        filesystem, where = FileSystem.from_uri(address)
        info = filesystem.get_file_info(where)
        infos = [info]
        if info.type == FileType.Directory:
            infos = filesystem.get_file_info(FileSelector(where, recursive=True))
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{argument}: cannot open {address!r}: {first_line(error)}") from error
    scheme = address[: address.index("://") + 3]
    return sorted(scheme + quote(info.path) for info in infos if info.type == FileType.File)
