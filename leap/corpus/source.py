"""The input of encode_corpus.py: rows in blocks of consecutive ones, streamed with `datasets`."""

import hashlib
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import get_dataset_config_info
from datasets.exceptions import DatasetsError

from leap.errors import UsageError
from leap.text.tokens import TextSource

SAMPLE = 2**20  # bytes of a file that are looked at, to estimate its rows and at each place to tell it apart
PLACES = 8  # at which a file is looked at to tell it from another


@dataclass(frozen=True)
class Shard:
    """N consecutive rows of the input.

    Attributes:
        index: its number; row i is in shard i // shard_size.
        first_row: number of its first row, from 0.
        ids: (N,) strings of the id column, or int64 row numbers.
        texts: the N texts.
        blank: how many of them are null or hold nothing but blanks.
        seconds: that reading it took, with the rows of other shards passed over on the way.
    """

    index: int
    first_row: int
    ids: pa.Array
    texts: list[str]
    blank: int
    seconds: float


@dataclass
class Corpus:
    """Rows in shards; which ones they are depends on the input alone, not on who reads them.

    Attributes:
        names: files, folders, globs or a Hub id, in this order.
        text_columns: columns that make up a text, joined by a blank; null counts as empty.
        id_column: column of the ids; None: `_id` where there is one, else row numbers.
        shard_size: rows of a shard.
        split: of a data set on the Hub.
        rows: of the whole input, once `shards` has come to its end.
    """

    names: Sequence[str]
    text_columns: Sequence[str]
    id_column: str | None
    shard_size: int
    split: str = "train"
    rows: int | None = None

    def sources(self) -> list[TextSource]:
        """Where the rows are, one source a name.

        Raises:
            UsageError: a name that means nothing readable.
        """
        sources = [TextSource(name, self.split, argument="--input") for name in self.names]
        for source in sources:
            try:
                source.files()
            except ValueError as error:
                raise UsageError(str(error)) from error
        return sources

    def shards(self, wanted: Callable[[int], bool]) -> Iterator[Shard]:
        """The shards that are wanted, in order; the others are read past without being taken apart.

        Raises:
            UsageError: the input cannot be read to its end, or has not the columns.
        """
        first, since, table = 0, time.perf_counter(), None
        for index, table in enumerate(self._tables()):
            if wanted(index):
                ids, texts, blank = self._columns(table, first)
                yield Shard(index, first, ids, texts, blank, time.perf_counter() - since)
                since = time.perf_counter()
            first += table.num_rows
        if table is None:
            raise UsageError(f"--input: no row in {', '.join(self.names)}: give a file that has some")
        self.rows = first

    def _tables(self) -> Iterator[pa.Table]:
        """Tables of `shard_size` rows, the last one shorter. A source may end within one."""
        waiting: list[pa.Table] = []
        count = 0
        for source in self.sources():
            try:
                for table in source.read(True, self.shard_size, "arrow"):
                    table = self._needed(table)
                    while count + table.num_rows >= self.shard_size:
                        cut = self.shard_size - count
                        yield _joined([*waiting, table.slice(0, cut)])
                        waiting, count, table = [], 0, table.slice(cut)
                    if table.num_rows:
                        waiting.append(table)
                        count += table.num_rows
            except ValueError as error:
                raise UsageError(str(error)) from error
        if count:
            yield _joined(waiting)

    def _needed(self, table: pa.Table) -> pa.Table:
        """The text columns and `_id`, the column of ids, as strings."""
        names = table.column_names
        missing = [column for column in self.text_columns if column not in names]
        if missing:
            raise UsageError(f"--text_columns: no column {missing[0]!r}; the input has {', '.join(names)}")
        if self.id_column and self.id_column not in names:
            raise UsageError(f"--id_column: no column {self.id_column!r}; the input has {', '.join(names)}")
        columns = {}
        for column in self.text_columns:
            kind = table.column(column).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
                raise UsageError(f"--text_columns: {column!r} holds {kind}, not text: name another column")
            columns[column] = table.column(column).cast(pa.large_string())
        id_column = self.id_column or ("_id" if "_id" in names else None)
        if id_column:
            ids = table.column(id_column)
            if ids.null_count:
                raise UsageError(f"--id_column: {id_column!r} has rows without an id: name another column")
            try:
                columns[f"id of {id_column}"] = ids.cast(pa.string())
            except pa.ArrowException as error:
                raise UsageError(f"--id_column: {id_column!r} holds {ids.type}, no text or number") from error
        return pa.table(columns)

    def _columns(self, table: pa.Table, first: int) -> tuple[pa.Array, list[str], int]:
        """Ids, texts, and how many of them are blank."""
        parts = [table.column(column).to_pylist() for column in self.text_columns]
        texts = [" ".join(filter(None, row)) for row in zip(*parts, strict=True)]
        if table.num_columns > len(self.text_columns):
            ids = table.column(table.num_columns - 1).combine_chunks()
        else:
            ids = pa.array(range(first, first + table.num_rows), pa.int64())
        return ids, texts, sum(not text.strip() for text in texts)

    def identity(self) -> dict[str, object]:
        """What tells this input from another: of files their names, sizes and samples of their content.

        Not their folder, nor when they were written, so that a copy on another machine counts as the same.
        A data set on the Hub is known by its name and split alone: it must not change while a run lasts.
        """
        return {
            "text_columns": list(self.text_columns),
            "id_column": self.id_column,
            "files": [
                [Path(file).name, os.path.getsize(file), _sample_digest(file)]
                for source in self.sources()
                for file in source.files()
            ],
            "on_hub": [[source.name, source.split] for source in self.sources() if not source.files()],
        }

    def estimate_rows(self) -> int | None:
        """About how many rows there are, from a look at the files; None where that cannot be told."""
        counts = [
            count
            for source in self.sources()
            for count in ([_estimate(file) for file in source.files()] or [_on_hub(source)])
        ]
        return None if None in counts else sum(count for count in counts if count is not None)


def _joined(tables: list[pa.Table]) -> pa.Table:
    """The tables under one another.

    Raises:
        UsageError: some have another id column than others.
    """
    try:
        return pa.concat_tables(tables)
    except pa.ArrowException as error:
        raise UsageError("--id_column: only some inputs have a column '_id': name a column") from error


def _sample_digest(file: str) -> str:
    """sha256 of the file's content at `PLACES`, its first and last bytes among them."""
    size, digest = os.path.getsize(file), hashlib.sha256()
    with open(file, "rb") as handle:
        for place in range(PLACES):
            handle.seek(max(0, size - SAMPLE) * place // (PLACES - 1))
            digest.update(handle.read(SAMPLE))
    return digest.hexdigest()


def _estimate(file: str) -> int | None:
    """Rows of a file: exact for parquet, from its first megabyte for lines, None for one JSON array."""
    if file.endswith(".parquet"):
        return pq.read_metadata(file).num_rows
    size = os.path.getsize(file)
    with open(file, "rb") as handle:
        sample = handle.read(SAMPLE)
    read = len(sample)
    if file.endswith(".gz"):
        try:
            sample = zlib.decompressobj(wbits=31).decompress(sample)
        except zlib.error:
            return None
    if sample.lstrip().startswith(b"[") or not sample:
        return None if sample else 0
    lines = sample.count(b"\n") + (read == size and not sample.endswith(b"\n"))
    return round(lines * size / read) - (".csv" in Path(file).suffixes)


def _on_hub(source: TextSource) -> int | None:
    """Rows that the Hub says the split has."""
    subset, _, split = source.split.rpartition("/")
    try:
        info = get_dataset_config_info(source.name, subset or None)
        return info.splits[split].num_examples or None
    except (DatasetsError, OSError, ValueError, KeyError, TypeError):
        return None
