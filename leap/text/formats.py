"""The rows of one file: txt, csv, json, jsonl or parquet, each optionally with .gz.

Rows are given as they are read, so memory does not grow with the file. Values keep their spelling: a number
is the text of its literal, nothing is taken for a date or a missing value, and columns that nobody asked for
are not converted.
"""

import csv
import gzip
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem

from leap.text.json_array import CHUNK, FormatError, array_elements, without_mark

FORMATS = (".txt", ".csv", ".json", ".jsonl", ".parquet")
PEEK = 1000  # rows of a JSON file that are looked at to know its columns, as it has no header
PARQUET_ROWS = 4096  # rows of a parquet file converted at a time
csv.field_size_limit(2**31 - 1)  # Python's own limit is 131,072 characters

Values = dict[str, Any]  # by column a str, Number or None; or what a format has that is none of them
Rows = Iterator[tuple[int, Values]]  # with the line, or the row of a parquet file, counted from 1


class Number(str):
    """A number literal, spelled as in the file."""

    __slots__ = ()


_JSON = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=Number)


def file_format(path: str) -> str | None:
    """The suffix that gives the file's format, one of `FORMATS`; None for any other file."""
    ending = os.path.splitext(path.removesuffix(".gz"))[1]
    return ending if ending in FORMATS else None


class OpenFile:
    """A file that is being read.

    Args:
        path: of a local file, or an address such as s3://bucket/file that pyarrow can open.

    Attributes:
        line: the line, or the row of a parquet file, that is being read, counted from 1; 0 at the start.

    Raises:
        FormatError: from here and from all methods, what is wrong with the file. The errors of the libraries
            that read it come through too.
    """

    def __init__(self, path: str) -> None:
        self.path, self.line = path, 0
        self._raw, self._size = _open(path)
        if self._size == 0:
            raise FormatError("it is empty: get it again, or leave it out")
        self._stream: Any = gzip.GzipFile(fileobj=self._raw) if path.endswith(".gz") else self._raw
        self._rows = self._bytes = 0

    def rows(self, columns: Sequence[str] | None, optional: Sequence[str] = ()) -> Rows:
        """The rows, each with those of the columns that it has.

        Args:
            columns: which ones; the file must have them. None: all there are.
            optional: further ones, which the file need not have.
        """
        kind = file_format(self.path)
        if kind is None:
            raise FormatError(f"its name must end in {', '.join(FORMATS)}, with or without .gz")
        if kind == ".txt":
            _wanted(["text"], columns, optional)
            return self._texts()
        if kind == ".csv":
            return self.table(columns, optional)
        if kind == ".parquet":
            return self._parquet(columns, optional)
        return _with_columns(self._objects(kind == ".json"), columns, optional)

    def table(self, columns: Sequence[str] | None, optional: Sequence[str] = (), **dialect: Any) -> Rows:
        """`rows` of a table with a header; `dialect` is one of the `csv` module's, None for plain CSV."""
        reader = csv.reader(self._lines(), strict=True, **dialect)
        header = next(reader, [])
        wanted = _wanted(header, columns, optional)
        doubled = next((name for name in wanted if header.count(name) > 1), None)
        if doubled is not None:
            raise FormatError(f"two columns {doubled!r}: rename one")
        places = [(name, header.index(name)) for name in wanted]
        end = reader.line_num
        for fields in reader:
            begin, end = end + 1, reader.line_num  # a field may go over several lines
            if not fields:
                continue  # a blank line
            if len(fields) != len(header):
                self.line = begin
                raise FormatError(
                    f"{len(fields)} fields under a header of {len(header)}: put a text with a comma, a quote "
                    "or a line break in quotes"
                )
            yield begin, {name: fields[at] for name, at in places}

    def share_read(self) -> float:
        """How much of the file has been read, from 0 to 1."""
        if self._rows:
            return self.line / self._rows
        packed = self._stream is not self._raw
        return (self._raw.tell() if packed or not self._bytes else self._bytes) / self._size

    def close(self) -> None:
        """Close it."""
        self._raw.close()

    def _lines(self) -> Iterator[str]:
        for raw in self._stream:
            self.line += 1
            self._bytes += len(raw)
            text = (without_mark(raw) if self.line == 1 else raw).decode()
            if "\0" in text:
                raise FormatError("a NUL character, so this is not UTF-8 text: convert it, or leave it out")
            yield text
        if not self.line:
            raise FormatError("it is empty: get it again, or leave it out")

    def _texts(self) -> Rows:
        for line in self._lines():
            yield self.line, {"text": line.removesuffix("\n").removesuffix("\r")}

    def _objects(self, maybe_array: bool) -> Iterator[tuple[int, Any]]:
        """One object per line, or the elements of the single array that a .json file may be."""
        if maybe_array:
            start = without_mark(self._stream.read(64)).lstrip()
            self._stream.seek(0)
            if start.startswith(b"["):
                for line, element in array_elements(self._stream.read, _JSON.raw_decode):
                    self.line = line
                    yield line, element
                return
        for line in self._lines():
            if not line.isspace():
                yield self.line, _JSON.decode(line)

    def _parquet(self, columns: Sequence[str] | None, optional: Sequence[str]) -> Rows:
        file = self._stream
        if self.path.endswith(".gz"):
            file = tempfile.TemporaryFile()
            shutil.copyfileobj(self._stream, file)  # parquet is read from its end
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        wanted = _wanted(parquet.schema_arrow.names, columns, optional)
        self._rows = parquet.metadata.num_rows
        for batch in parquet.iter_batches(PARQUET_ROWS, columns=wanted):
            lists = [_python_values(batch.column(name)) for name in wanted]
            for values in zip(*lists, strict=True):
                self.line += 1
                yield self.line, dict(zip(wanted, values, strict=True))


def _open(path: str) -> tuple[Any, int]:
    if "://" not in path:
        return open(path, "rb"), os.path.getsize(path)
    filesystem, where = FileSystem.from_uri(path)
    handle = filesystem.open_input_file(where)
    return io.BufferedReader(handle, CHUNK), handle.size()


def _wanted(names: Sequence[str], columns: Sequence[str] | None, optional: Sequence[str]) -> list[str]:
    """The columns of the file to read."""
    _all_there(names, columns or ())
    return list(dict.fromkeys([*(names if columns is None else columns), *set(optional).intersection(names)]))


def _all_there(names: Iterable[str], columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in names]
    if missing:
        raise FormatError(f"no column {missing[0]!r}; it has {', '.join(map(repr, names)) or 'none'}")


def _with_columns(
    objects: Iterator[tuple[int, Any]], columns: Sequence[str] | None, optional: Sequence[str]
) -> Rows:
    """The requested keys of every object; the first rows together must have all of them."""
    wanted = None if columns is None else dict.fromkeys([*columns, *optional])
    held: list[tuple[int, Values]] | None = []
    keys: dict[str, None] = {}
    for line, row in objects:
        if not isinstance(row, dict):
            raise FormatError(f"a {type(row).__name__}, not an object with a key for each column")
        keys |= dict.fromkeys(row) if held is not None else {}
        found = line, row if wanted is None else {name: row[name] for name in wanted if name in row}
        if held is None:
            yield found
            continue
        held.append(found)
        if len(held) == PEEK:
            _all_there(keys, columns or ())
            yield from held
            held = None
    if held:
        _all_there(keys, columns or ())
        yield from held


def _python_values(column: pa.Array) -> list[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_integer(column.type):
        return [None if value is None else Number(value) for value in column.to_pylist()]
    return column.to_pylist()
