"""Texts to time or to diagnose a model with: a plain file of them, or the sentences of an STS set."""

from dataclasses import dataclass, field
from pathlib import Path

from datasets.exceptions import DatasetsError

from leap.errors import UsageError, first_line
from leap.files import checksum
from leap.text.sets import StsData, TextData, load_sts
from leap.text.tokens import TextSource, iterate_texts

TEXT_ENDINGS = (".txt", ".json", ".jsonl", ".parquet")


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
    path = Path(source)
    if Path(source.removesuffix(".gz")).suffix not in TEXT_ENDINGS:
        return load_sts(source, split)
    if not path.is_file():
        raise UsageError(f"--data: there is no file {source!r}: check the path")
    try:
        chunks = iterate_texts(TextSource(source, limit=limit), streaming=True)  # leaves no copy on the disk
        texts = [text for chunk in chunks for text in chunk]
    except (ValueError, OSError, DatasetsError) as error:
        raise UsageError(f"--data: cannot read {source!r}: {first_line(error)}") from error
    if len(texts) < 2:
        raise UsageError(f"--data: {source!r} holds {len(texts)} texts: give at least 2")
    return Texts(path.name, checksum(texts), texts)


def texts_of(data: StsData | Texts) -> list[str]:
    """All texts; of N pairs the N first sentences, then the N second ones."""
    return data.texts if isinstance(data, Texts) else data.first + data.second
