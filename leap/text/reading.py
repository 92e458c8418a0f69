"""The one reader of rows: local files, folders and globs, files that pyarrow can open, data sets on the Hub.

Whatever is wrong with them is one line that names the argument, the file and the row.
"""

import csv
import json
import os
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from leap.errors import UsageError, first_line
from leap.text.finding import local_files, remote_files
from leap.text.formats import FORMATS, OpenFile, file_format
from leap.text.json_array import FormatError
from leap.text.rows import Row

CHUNK = 10_000  # texts handed on at a time
DAMAGED = (OSError, EOFError, zlib.error, pa.ArrowException)  # what libraries raise for such a file


@dataclass
class Progress:
    """How much of a source has been read.

    Attributes:
        rows: that were read.
        share: of the whole, from 0 to 1, by bytes or rows; 0 where it cannot be told.
    """

    rows: int = 0
    share: float = 0.0


@dataclass(frozen=True)
class TextSource:
    """Where texts come from.

    Attributes:
        name: a local file, folder (with all below it) or glob; an address such as s3://bucket/folder, for
            pyarrow; or the id of a data set on the Hub.
        split: of a data set on the Hub, `train` or with a subset before it as in `pair/train`.
        text_columns: columns that hold the texts.
        exclude: values of the column `source` whose rows are left out (a licence, a test set).
        limit: read the first texts only, this many; None for all.
        argument: what the name was given as, for errors.
        revision: of a data set on the Hub; None: its newest.
    """

    name: str
    split: str = "train"
    text_columns: tuple[str, ...] = ("text",)
    exclude: tuple[str, ...] = ()
    limit: int | None = None
    argument: str = field(default="--data", compare=False)
    revision: str | None = None

    def check_apart(self, output: Path) -> None:
        """Raise a UsageError if `output`, a file or folder to write, is or would be read as input."""
        output, folder = output.resolve(), Path(self.name).expanduser()
        files = [Path(file).resolve() for file in self.files() if "://" not in file]
        inside = folder.is_dir() and output.is_relative_to(folder.resolve())
        if inside or any(output in (file, *file.parents) for file in files):
            raise UsageError(f"--output: {str(output)!r} is among the input: give another place")

    def files(self) -> list[str]:
        """The files of the source; empty if `name` is a Hub id.

        Raises:
            UsageError: nothing readable is there, or files of several formats.
        """
        found = remote_files(self.name, self.argument) if "://" in self.name else local_files(self.name)
        if found is None:
            return []
        files = [file for file in found if file_format(file)]
        if not files:
            raise UsageError(
                f"{self.argument}: {self.name!r} holds no {', '.join(FORMATS)} file (.gz may follow); name a "
                "file, a folder, a glob or the id of a data set on the Hub"
            )
        kinds = sorted({str(file_format(file)) for file in files})
        if len(kinds) > 1:
            odd = [next(file for file in files if file_format(file) == kind) for kind in kinds]
            raise UsageError(
                f"{self.argument}: {self.name!r} holds files of several formats, such as "
                f"{' and '.join(map(repr, odd))}: name those of one, by a glob such as 'texts/*.jsonl'"
            )
        left_out = [file for file in found if not file_format(file)]
        if left_out:
            more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
            warnings.warn(f"{self.argument}: not read: {left_out[0]}{more}", stacklevel=2)
        return files

    def rows(
        self,
        columns: Sequence[str] | None,
        optional: Sequence[str] = (),
        *,
        streaming: bool = True,
        progress: Progress | None = None,
    ) -> Iterator[Row]:
        """All rows, in order.

        Args:
            columns: that every file must have; None: all there are.
            optional: columns that a file need not have.
            streaming: read a data set of the Hub as it is downloaded, without a copy on the disk.
            progress: kept up to date.

        Raises:
            UsageError: as `files`, or a file cannot be read as it is.
        """
        files = self.files()
        if files:
            yield from read_files(files, columns, optional, argument=self.argument, progress=progress)
        else:
            from leap.text.hub import (
                hub_rows,
            )  # here: `datasets` makes a cache, which local files need not have

            yield from hub_rows(self, columns, optional, streaming, progress or Progress())

    def fingerprint(self) -> list[object]:
        """What must stay the same for a cache of these texts to hold, as JSON values."""
        stats = [(file, os.stat(file)) for file in self.files() if "://" not in file]
        files = [[os.path.abspath(file), stat.st_size, stat.st_mtime_ns] for file, stat in stats]
        return [{name: value for name, value in asdict(self).items() if name != "argument"}, files]


def iterate_texts(source: TextSource, streaming: bool = True) -> Iterator[list[str]]:
    """The texts of the source in lists of `CHUNK`, the last one shorter, without blank texts.

    Args:
        source: each of whose text columns is a text of its own.
        streaming: as for `TextSource.rows`.

    Raises:
        UsageError: as `TextSource.rows`, or a text column holds something else.
    """
    texts: list[str] = []
    left = source.limit
    origin = ("source",) if source.exclude else ()
    for row in source.rows((*source.text_columns, *origin), streaming=streaming):
        found = [text for text in row.texts(source.text_columns) if text.strip()]
        if origin and row.text("source") in source.exclude:
            continue
        texts += found[:left]
        if left is not None:
            left -= len(found[:left])
        if len(texts) >= CHUNK or left == 0:
            yield texts
            texts = []
            if left == 0:
                return
    if texts:
        yield texts


def read_files(
    files: Sequence[str],
    columns: Sequence[str] | None,
    optional: Sequence[str] = (),
    *,
    argument: str = "--data",
    progress: Progress | None = None,
    **dialect: Any,
) -> Iterator[Row]:
    """The rows of some files, one after another.

    Args:
        files: their paths.
        columns: that every file must have; None: all there are.
        optional: columns that a file need not have.
        argument: the option to name in an error.
        progress: kept up to date.
        **dialect: read tables in this dialect of the `csv` module, whatever the files are called.

    Raises:
        UsageError: a file cannot be read as it is.
    """
    weights = [1 if "://" in path or not os.path.isfile(path) else os.path.getsize(path) for path in files]
    done, total = 0, max(1, sum(weights))
    for path, weight in zip(files, weights, strict=True):
        place = f"{argument}: {path!r}, {'row' if file_format(path) == '.parquet' else 'line'}"
        file = None
        try:
            file = OpenFile(path)
            rows = file.table(columns, optional, **dialect) if dialect else file.rows(columns, optional)
            for number, values in rows:
                if progress is not None:
                    progress.rows += 1
                    progress.share = (done + weight * file.share_read()) / total
                yield Row(place, number, values)
            done += weight
        except (*DAMAGED, ValueError, csv.Error, RecursionError) as error:
            if isinstance(error, FileNotFoundError):
                raise UsageError(f"{argument}: there is no file {path!r}: check the path") from error
            where = f"{place} {file.line}" if file and file.line else f"{argument}: {path!r}"
            raise UsageError(f"{where}: {_reason(error)}") from error
        finally:
            if file:
                file.close()


def _reason(error: Exception) -> str:
    """What is wrong with a file, and the remedy."""
    match error:
        case FormatError():
            return str(error)
        case UnicodeDecodeError():
            return "not UTF-8: convert the file, for example by iconv -f latin1 -t utf-8"
        case json.JSONDecodeError():
            return f"not JSON ({error.msg}, column {error.colno}): fix the line, or leave it out"
        case csv.Error():
            return f"not CSV ({error}): fix its quotes"
        case RecursionError():
            return "JSON nested too deeply: leave it out"
        case PermissionError() | IsADirectoryError():
            return f"cannot be opened ({error.strerror})"
    return f"it is damaged or breaks off ({first_line(error).rstrip('.')}): get it again, or leave it out"
