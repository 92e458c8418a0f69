"""The texts that `front` measures, from a folder laid out like LEAP_DATA; all or a part of them."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from eval.quality.mixed import COUNTS, mixed_texts
from leap.errors import UsageError
from leap.files import checksum
from leap.text.sets import RetrievalData, StsData, load_retrieval, load_sts

SIMILARITY = {
    "STS-B validation": "stsb/validation.csv",
    "STS-B test": "stsb/test.csv",
    "STS12": "sts/STS12/test.csv",
    "STS13": "sts/STS13/test.csv",
    "STS15": "sts/STS15/test.csv",
}
RETRIEVAL = {"SciFact": "scifact", "ArguAna": "arguana", "Cranfield": "cranfield", "CACM": "cacm"}
MIXED = "mixed"


def data_folder(given: Path | None, argument: str = "--data") -> Path:
    """The folder of all data: the one given, otherwise LEAP_DATA.

    Raises:
        UsageError: there is none.
    """
    folder = given or Path(os.environ.get("LEAP_DATA") or "no LEAP_DATA")
    if not folder.is_dir():
        raise UsageError(f"{argument}: there is no folder {str(folder)!r}: give it, or set LEAP_DATA to it")
    return folder


@dataclass(frozen=True)
class TextSet:
    """Named texts.

    Attributes:
        name: for reading.
        texts: N texts.
        kinds: (N,) a name each, where they are of several.
    """

    name: str
    texts: list[str]
    kinds: list[str] | None = None

    @property
    def sha256(self) -> str:
        """Checksum of the texts."""
        return checksum(self.texts)


def similarity_sets(folder: Path, limit: int | None = None) -> dict[str, StsData]:
    """Sentence pairs by name; `limit`: at most so many sentences of each.

    Raises:
        UsageError: the folder lacks one.
    """
    found = {}
    for name, path in SIMILARITY.items():
        data = load_sts(str(folder / path))
        rows = _rows(len(data.scores), limit and max(2, limit // 2))
        found[name] = replace(
            data,
            name=name,
            first=[data.first[row] for row in rows],
            second=[data.second[row] for row in rows],
            scores=data.scores[rows],
        )
    return found


def retrieval_sets(folder: Path, limit: int | None = None) -> dict[str, RetrievalData]:
    """Retrieval sets by name; `limit`: so many documents, and a tenth as many queries with theirs.

    Raises:
        UsageError: the folder lacks one.
    """
    found = {}
    for name, source in RETRIEVAL.items():
        data = load_retrieval(str(folder / "beir" / source))
        if limit:
            queries = dict(list(data.queries.items())[: max(1, limit // 10)])
            qrels = {query: data.qrels[query] for query in queries}
            judged = {document for gains in qrels.values() for document in gains}
            kept = judged.union(list(data.documents)[:limit])
            documents = {key: text for key, text in data.documents.items() if key in kept}
            data = replace(data, queries=queries, qrels=qrels, documents=documents)
        found[name] = replace(data, name=name)
    return found


def mixed_set(folder: Path, limit: int | None = None, seed: int = 0) -> TextSet:
    """The mixed set; `limit`: at most about so many texts, in the same proportions.

    Raises:
        UsageError: the folder lacks a part of it.
    """
    share = 1.0 if limit is None else min(1.0, limit / sum(COUNTS.values()))
    found = mixed_texts(folder, seed, {kind: max(2, round(share * count)) for kind, count in COUNTS.items()})
    texts = [text for part in found.values() for text in part]
    return TextSet(MIXED, texts, [kind for kind, part in found.items() for _ in part])


def _rows(count: int, limit: int | None) -> np.ndarray:
    """Rows of a set in order: all, or a random `limit` of them."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, limit, replace=False))
