"""Evaluation sets: sentence pairs and retrieval sets, from local files or from the Hub.

A set is asked for by path, by Hub id, or by a short name such as `stsb` or `scifact`. A short name is looked
for in the folder that the environment variable LEAP_DATA names, laid out as

    stsb/{train,validation,test}.csv, sts/NAME/test.csv     columns sentence1, sentence2, score
    beir/NAME/{corpus.jsonl.gz, queries.jsonl.gz, qrels/test.tsv}

and is taken from the Hub when it is not there.
"""

import csv
import gzip
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import load_dataset
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import HfHubHTTPError

from leap.encode.exits import FloatArray
from leap.errors import UsageError, first_line
from leap.files import checksum

STS_ON_HUB = {
    "stsb": "mteb/stsbenchmark-sts",
    "STS12": "mteb/sts12-sts",
    "STS13": "mteb/sts13-sts",
    "STS15": "mteb/sts15-sts",
}
STS_COLUMNS = ("sentence1", "sentence2", "score")

Qrels = dict[str, dict[str, int]]


@dataclass(frozen=True)
class TextData:
    """Texts without labels.

    Attributes:
        name: what was asked for.
        sha256: checksum of what was used of it.
    """

    name: str
    sha256: str


@dataclass(frozen=True)
class StsData:
    """N pairs of sentences with the similarity people gave them.

    Attributes:
        name: what was asked for, with the split.
        first: N sentences.
        second: N sentences.
        scores: (N,) gold similarity; only its order matters.
        sha256: checksum of the rows.
    """

    name: str
    first: list[str]
    second: list[str]
    scores: FloatArray
    sha256: str


@dataclass(frozen=True)
class RetrievalData:
    """A BEIR set: documents, queries and judgements.

    Attributes:
        name: what was asked for, with the split.
        documents: id -> text, title and text joined as BEIR joins them.
        queries: id -> text, of the queries that have judgements.
        qrels: query id -> document id -> gain.
        sha256: checksum of all of it.
        corpus_sha256: checksum of the documents.
    """

    name: str
    documents: dict[str, str]
    queries: dict[str, str]
    qrels: Qrels
    sha256: str
    corpus_sha256: str


def load_sts(source: str, split: str = "test") -> StsData:
    """Load sentence pairs from a CSV file, a short name or a Hub id.

    Args:
        source: path of a CSV with the columns sentence1, sentence2, score; or a short name; or a Hub id.
        split: which split of a set that has several; a CSV given by its path has none.

    Raises:
        UsageError: there is no such set, or its content is not of that form.
    """
    local = Path(source)
    if local.suffix == ".csv":
        if not local.is_file():
            raise UsageError(f"--data: there is no file {source!r}: check the path")
        return _sts(local.stem, _csv_rows(local))
    root = _data_root()
    for folder in (root / source, root / "sts" / source) if root else ():
        if (folder / f"{split}.csv").is_file():
            return _sts(f"{source}/{split}", _csv_rows(folder / f"{split}.csv"))
    return _sts(f"{source}/{split}", _hub_rows(STS_ON_HUB.get(source, source), split=split))


def _sts(name: str, rows: Iterable[dict[str, Any]]) -> StsData:
    table: list[tuple[str, str, float]] = []
    for number, row in enumerate(rows, start=1):
        first, second, score = (row.get(column) for column in STS_COLUMNS)
        try:
            if first is None or second is None:
                raise ValueError("a missing sentence")
            table.append((first, second, float(score)))  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            wanted = "sentence1, sentence2 and a number as score"
            raise UsageError(f"--data: row {number} of {name!r} needs {wanted}; got {row}") from error
    if len(table) < 2:
        raise UsageError(f"--data: {name!r} holds {len(table)} pairs: a correlation takes at least 2")
    first, second, scores = zip(*table, strict=True)
    return StsData(name, list(first), list(second), np.array(scores), checksum(table))


def load_retrieval(source: str, split: str = "test") -> RetrievalData:
    """Load a retrieval set from a BEIR folder, a short name or a Hub id.

    Args:
        source: a folder; or a short name such as `scifact`; or a Hub id such as `BeIR/scifact`, whose
            judgements are then in `BeIR/scifact-qrels`, as BEIR has them.
        split: which judgements.

    Raises:
        UsageError: there is no such set, or its content is not of that form.
    """
    root = _data_root()
    folders = [Path(source)] + ([root / "beir" / source] if root else [])
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder:
        name = f"{folder.name}/{split}"
        corpus, queries = _json_rows(folder, "corpus"), _json_rows(folder, "queries")
        judgements: Iterable[dict[str, Any]] = _tsv_rows(folder / "qrels" / f"{split}.tsv")
    else:
        name = f"{source}/{split}"
        hub = source if "/" in source else f"BeIR/{source}"
        corpus = _hub_rows(hub, "corpus", split="corpus")
        queries = _hub_rows(hub, "queries", split="queries")
        judgements = _hub_rows(f"{hub}-qrels", split=split)
    try:
        return _retrieval(name, corpus, queries, judgements)
    except KeyError as error:
        raise UsageError(f"--data: {name!r} lacks {error}: it needs the columns of BEIR's files") from error


def _retrieval(
    name: str,
    corpus: Iterable[dict[str, Any]],
    queries: Iterable[dict[str, Any]],
    judgements: Iterable[dict[str, Any]],
) -> RetrievalData:
    qrels: Qrels = {}
    for row in judgements:
        qrels.setdefault(str(row["query-id"]), {})[str(row["corpus-id"])] = int(row["score"])
    documents = {str(row["_id"]): _document_text(row) for row in corpus}
    texts = {str(row["_id"]): row["text"] for row in queries}
    missing = [query for query in qrels if query not in texts]
    if missing:
        raise UsageError(f"--data: {name!r} judges query {missing[0]!r} but has no text for it: mend the set")
    if not documents or not qrels:
        raise UsageError(f"--data: {name!r} has {len(documents)} documents and {len(qrels)} judged queries")
    texts = {query: text for query, text in texts.items() if query in qrels}
    corpus_sha256 = checksum(documents.items())
    judged = [(query, text, sorted(qrels[query].items())) for query, text in texts.items()]
    sha256 = checksum([corpus_sha256, *judged])
    return RetrievalData(name, documents, texts, qrels, sha256, corpus_sha256)


def _document_text(row: dict[str, Any]) -> str:
    """BEIR's way: title, a space, text; stripped, since either may be empty."""
    return f"{row.get('title') or ''} {row['text']}".strip()


def _data_root() -> Path | None:
    """The folder of LEAP_DATA, if it is set."""
    value = os.environ.get("LEAP_DATA")
    if not value:
        return None
    if not Path(value).is_dir():
        raise UsageError(f"LEAP_DATA: there is no folder {value!r}: correct it, or unset it to use the Hub")
    return Path(value)


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:  # -sig: spreadsheets begin with a mark
        yield from csv.DictReader(file)


def _tsv_rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise UsageError(f"--split: there is no file {str(path)!r}: give a split that has judgements")
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)


def _json_rows(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    packed, plain = folder / f"{name}.jsonl.gz", folder / f"{name}.jsonl"
    if packed.is_file():
        file = gzip.open(packed, "rt", encoding="utf-8")
    elif plain.is_file():
        file = plain.open(encoding="utf-8")
    else:
        raise UsageError(f"--data: {str(folder)!r} has no {name}.jsonl(.gz): give a folder in BEIR's layout")
    with file:
        for line in file:
            yield json.loads(line)


def _hub_rows(repository: str, config: str | None = None, *, split: str) -> Iterator[dict[str, Any]]:
    try:
        rows = load_dataset(repository, config, split=split)
    except (DatasetNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise UsageError(f"--data: cannot load {repository!r}: {first_line(error)}") from error
    yield from rows
