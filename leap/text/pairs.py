"""Pairs of texts to fine-tune on, from a file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leap.errors import UsageError
from leap.files import checksum
from leap.text.reading import read_files
from leap.text.sets import STS_COLUMNS

PAIR_COLUMNS = ("anchor", "positive")
UNUSED = ("score", "label", "negative")  # beside those: a pair that belongs together has none


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
    scores: NDArray[np.float64] | None

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
        path: a file, in any format that `leap.text.formats` reads.
        argument: the option to name in an error.

    Raises:
        UsageError: there is no such file, or a row is not of that form.
    """
    first, second, scores = [], [], []
    columns: tuple[str, ...] | None = None
    for row in read_files([str(path)], None, argument=argument):
        if columns is None:
            columns = STS_COLUMNS if STS_COLUMNS[0] in row.values else PAIR_COLUMNS
        unused = [name for name in row.values if columns is PAIR_COLUMNS and name.startswith(UNUSED)]
        if unused:
            raise row.refuse(
                f"column {unused[0]!r} is not used beside anchor and positive: take it out, or give "
                "sentence1, sentence2 and score"
            )
        missing = [name for name in columns if name not in row.values]
        if missing:
            raise row.refuse(
                f"no column {missing[0]!r}: give sentence1, sentence2 and score, or anchor and positive"
            )
        first.append(row.text(columns[0], required=True))
        second.append(row.text(columns[1], required=True))
        if columns is STS_COLUMNS:
            scores.append(row.number_of("score"))
    if len(first) < 2:
        raise UsageError(f"{argument}: {path.name!r} holds {len(first)} pairs: give at least 2")
    name = Path(path.name.removesuffix(".gz")).stem
    return Pairs(name, first, second, np.array(scores) if scores else None)
