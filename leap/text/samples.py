"""Texts to time or diagnose a model with: a plain text file, or the sentences of an STS set."""

from dataclasses import dataclass, field
from pathlib import Path

from leap.errors import UsageError
from leap.files import checksum
from leap.text.formats import file_format
from leap.text.reading import TextSource, iterate_texts
from leap.text.sets import StsData, TextData, load_sts


@dataclass(frozen=True)
class Texts(TextData):
    """N texts without labels.

    Attributes:
        texts: the N texts.
    """

    texts: list[str] = field(repr=False)


def load_texts_or_pairs(source: str, split: str = "test", limit: int | None = None) -> StsData | Texts:
    """Load the texts of a file, or sentence pairs.

    Args:
        source: path of a txt (a text a line), json, jsonl or parquet (column `text`), all also with .gz after
            it; or sentence pairs in a form that `leap.text.sets.load_sts` takes.
        split: which split of a set of pairs that has several.
        limit: read the first texts of a file only, this many; None for all. Pairs are read in full.

    Raises:
        UsageError: there is no such data, it is not of that form, or it holds less than two texts.
    """
    if file_format(source) in (None, ".csv"):
        return load_sts(source, split)
    chunks = iterate_texts(TextSource(source, limit=limit))
    texts = [text for chunk in chunks for text in chunk]
    if len(texts) < 2:
        raise UsageError(f"--data: {source!r} holds {len(texts)} texts: give at least 2")
    return Texts(Path(source).name, checksum(texts), texts)


def texts_of(data: StsData | Texts) -> list[str]:
    """All texts; of N pairs the N first sentences, then the N second ones."""
    return data.texts if isinstance(data, Texts) else data.first + data.second
