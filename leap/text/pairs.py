"""Pairs of texts to fine-tune on, from a CSV or JSONL file."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leap.encode.exits import FloatArray
from leap.errors import UsageError
from leap.files import checksum
from leap.text.sets import STS_COLUMNS

PAIR_COLUMNS = ("anchor", "positive")


@dataclass(frozen=True)
class Pairs:
    """N pairs of texts.

    Attributes:
        name: what was asked for.
        first: N texts.
        second: N texts.
        scores: (N,) similarity, of which only the order matters; None: each pair belongs together.
    """

    name: str
    first: list[str]
    second: list[str]
    scores: FloatArray | None

    def __len__(self) -> int:
        return len(self.first)

    @property
    def sha256(self) -> str:
        """Checksum of the rows."""
        columns = [self.first, self.second] + ([] if self.scores is None else [self.scores.tolist()])
        return checksum(zip(*columns, strict=True))

    def take(self, rows: np.ndarray, name: str) -> "Pairs":
        """Some of the pairs, under another name."""
        scores = None if self.scores is None else self.scores[rows]
        return Pairs(name, [self.first[i] for i in rows], [self.second[i] for i in rows], scores)

    def split(self, held_out: float, seed: int) -> tuple["Pairs", "Pairs"]:
        """A share of the pairs, drawn at random, for training, and the rest held out from it."""
        order = np.random.default_rng(seed).permutation(len(self))
        count = round(len(self) * held_out)
        return self.take(order[count:], self.name), self.take(order[:count], f"{self.name}, held out")


def load_pairs(path: Path, argument: str = "--data") -> Pairs:
    """Load pairs: the columns sentence1, sentence2, score, or else anchor, positive.

    Args:
        path: a .csv or .jsonl file.
        argument: the option to name in an error.

    Raises:
        UsageError: there is no such file, or a row is not of that form.
    """
    if not path.is_file():
        raise UsageError(f"{argument}: there is no file {str(path)!r}: check the path")
    rows = list(_rows(path, argument))
    scored = bool(rows) and STS_COLUMNS[0] in rows[0]
    columns = STS_COLUMNS if scored else PAIR_COLUMNS
    table = []
    for number, row in enumerate(rows, start=1):
        try:
            first, second = (_text(row[column]) for column in columns[:2])
            table.append((first, second, float(row[columns[2]]) if scored else 0.0))
        except (KeyError, TypeError, ValueError) as error:
            wanted = "sentence1, sentence2 and a number as score, or anchor and positive"
            raise UsageError(
                f"{argument}: row {number} of {path.name!r} needs {wanted}; got {row}"
            ) from error
    if len(table) < 2:
        raise UsageError(f"{argument}: {path.name!r} holds {len(table)} pairs: give at least 2")
    firsts, seconds, scores = zip(*table, strict=True)
    return Pairs(path.stem, list(firsts), list(seconds), np.array(scores) if scored else None)


def _rows(path: Path, argument: str) -> Iterator[dict[str, Any]]:
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:  # -sig: spreadsheets begin with a mark
            yield from csv.DictReader(file)
    elif path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise UsageError(f"{argument}: line {number} of {path.name!r} is no JSON") from error
    else:
        raise UsageError(f"{argument}: {path.name!r} must end in .csv or .jsonl")


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("no text")
    return value
