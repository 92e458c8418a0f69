"""The input of encode_corpus.py: an id and a text per row."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from leap.errors import UsageError
from leap.text.reading import Progress, TextSource

SAMPLE, PLACES = 2**20, 8  # bytes of a file, and places in it, that tell it from another


@dataclass(frozen=True)
class Documents:
    """The rows of some sources, one after another.

    Attributes:
        sources: files, folders, globs, addresses or ids on the Hub.
        text_columns: columns that make up a text, joined by a blank; null counts as empty.
        id_column: column of the ids; None: row numbers from 0.
    """

    sources: Sequence[TextSource]
    text_columns: tuple[str, ...]
    id_column: str | None

    @classmethod
    def find(
        cls, names: Sequence[str], split: str, text_columns: Sequence[str], id_column: str | None
    ) -> "Documents":
        """The requested documents; without an id column, `_id` is used if the first row has it.

        Raises:
            UsageError: there is no such input, it has no rows, or not these columns.
        """
        doubled = next((name for name in text_columns if text_columns.count(name) > 1), None)
        if doubled is not None:
            raise UsageError(f"--text_columns: {doubled!r} is given twice: name each column once")
        sources = [TextSource(name, split, argument="--input") for name in names]
        for source in sources:
            source.files()
        found = cls(sources, tuple(text_columns), id_column)
        first = next((row for source in sources for row in source.rows(*found.columns)), None)
        if first is None:
            raise UsageError(f"--input: no row in {', '.join(names)}: give a file that has some")
        return found if id_column else replace(found, id_column="_id" if "_id" in first.values else None)

    @property
    def columns(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The columns to read, and the one that is optional."""
        return (*self.text_columns, *filter(None, [self.id_column])), () if self.id_column else ("_id",)

    def rows(
        self, progress: Progress | None = None, sources: Sequence[TextSource] | None = None, first: int = 0
    ) -> Iterator[tuple[str | int, str]]:
        """Ids and texts.

        Args:
            progress: kept up to date.
            sources: some of the sources, or files of them; None: all.
            first: number of the first row.

        Raises:
            UsageError: a row cannot be kept as it is.
        """
        sources = self.sources if sources is None else sources
        number, parts = first, [Progress() for _ in sources]
        for source, part in zip(sources, parts, strict=True):
            for row in source.rows(*self.columns, progress=part):
                if self.id_column is None and "_id" in row.values:
                    raise row.refuse("a column '_id', which the first row has not: name it by --id_column")
                if progress is not None:
                    progress.rows += 1
                    progress.share = sum(part.share for part in parts) / len(parts)
                text = " ".join(filter(None, row.texts(self.text_columns)))
                yield row.id(self.id_column) if self.id_column else number, text
                number += 1

    def identity(self) -> list[object]:
        """What distinguishes this input from another, as JSON values.

        Of files their names, sizes and samples of their content, not their folder or date, so that a copy
        counts as the same. A data set on the Hub must not change while a run lasts.
        """
        sources = [[_sampled(file) for file in source.files()] or source.name for source in self.sources]
        return [list(self.text_columns), self.id_column, self.sources[0].split, *sources]


def _sampled(file: str) -> list[object]:
    if "://" in file:
        return [file]
    size, digest = os.path.getsize(file), hashlib.sha256()
    with open(file, "rb") as handle:
        for place in range(PLACES):
            handle.seek(max(0, size - SAMPLE) * place // (PLACES - 1))
            digest.update(handle.read(SAMPLE))
    return [Path(file).name, size, digest.hexdigest()]
