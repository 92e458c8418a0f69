"""Evaluation sets: sentence pairs and retrieval sets, from local files or from the Hub.

A set is asked for by path, by Hub id, or by a short name such as `stsb` or `scifact`. A short name is looked
for in the folder that the environment variable LEAP_DATA names, laid out as

    stsb/{train,validation,test}.csv, sts/NAME/test.csv     columns sentence1, sentence2, score
    beir/NAME/{corpus.jsonl.gz, queries.jsonl.gz, qrels/test.tsv}

and is taken from the Hub when it is not there.
"""

import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leap.errors import UsageError
from leap.files import checksum
from leap.text.formats import file_format
from leap.text.reading import TextSource, read_files
from leap.text.rows import Row

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
    """N sentence pairs with human similarity scores.

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
    scores: NDArray[np.float64]
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


def load_sts(source: str, split: str = "test", argument: str = "--data") -> StsData:
    """Load sentence pairs from a file, a short name or a Hub id.

    Args:
        source: a file with the columns sentence1, sentence2, score; or a short name; or a Hub id.
        split: which split of a set that has several; a file given by its path has none.
        argument: the option to name in an error.

    Raises:
        UsageError: there is no such set, or its content is not of that form.
    """
    root, name = _data_root(), f"{source}/{split}"
    folders = [root / source, root / "sts" / source] if root else []
    local = next((path for folder in folders if (path := folder / f"{split}.csv").is_file()), None)
    if file_format(source):
        local, name = Path(source), Path(source.removesuffix(".gz")).stem
    if local is not None:
        rows = read_files([str(local)], STS_COLUMNS, argument=argument)
    else:
        rows = _hub_rows(STS_ON_HUB.get(source, source), split, STS_COLUMNS, argument)
    table = [
        (row.text("sentence1", required=True), row.text("sentence2", required=True), row.number_of("score"))
        for row in rows
    ]
    if len(table) < 2:
        raise UsageError(f"{argument}: {name!r} holds {len(table)} pairs: a correlation takes at least 2")
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
    if file_format(source):
        raise UsageError(f"--data: {source!r} is a file: give a folder in BEIR's layout, or a set's name")
    root, name = _data_root(), f"{source}/{split}"
    folders = [Path(source)] + ([root / "beir" / source] if root else [])
    folder = next((folder for folder in folders if folder.is_dir()), None)
    texts, judged = ("_id", "text"), ("query-id", "corpus-id", "score")
    if folder:
        name = f"{folder.name}/{split}"
        qrels = folder / "qrels" / f"{split}.tsv"
        if not qrels.is_file():
            raise UsageError(f"--split: there is no file {str(qrels)!r}: give a split that has judgements")
        corpus = read_files([_json_file(folder, "corpus")], texts, ("title",))
        queries = read_files([_json_file(folder, "queries")], texts)
        judgements = read_files([str(qrels)], judged, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        hub = source if "/" in source else f"BeIR/{source}"
        corpus = _hub_rows(hub, "corpus/corpus", texts, optional=("title",))
        queries = _hub_rows(hub, "queries/queries", texts)
        judgements = _hub_rows(f"{hub}-qrels", split, judged)
    return _retrieval(name, corpus, queries, judgements)


def _retrieval(
    name: str, corpus: Iterable[Row], queries: Iterable[Row], judgements: Iterable[Row]
) -> RetrievalData:
    qrels: Qrels = {}
    for row in judgements:
        gains, document = qrels.setdefault(row.id("query-id"), {}), row.id("corpus-id")
        gain = row.number_of("score")
        if gain != int(gain):
            raise row.refuse(f"column 'score' needs a whole number, got {gain:g}")
        if gains.setdefault(document, int(gain)) != gain:
            raise row.refuse(f"document {document!r} is judged a second time, otherwise: keep one of the two")
    documents = _by_id(corpus)
    texts = _by_id(queries)
    missing = [query for query in qrels if not texts.get(query)]
    if missing:
        raise UsageError(f"--data: {name!r} judges query {missing[0]!r} but has no text for it: fix the set")
    if not documents or not qrels:
        raise UsageError(f"--data: {name!r} has {len(documents)} documents and {len(qrels)} judged queries")
    texts = {query: text for query, text in texts.items() if query in qrels}
    corpus_sha256 = checksum(documents.items())
    judged = [(query, text, sorted(qrels[query].items())) for query, text in texts.items()]
    sha256 = checksum([corpus_sha256, *judged])
    return RetrievalData(name, documents, texts, qrels, sha256, corpus_sha256)


def _by_id(rows: Iterable[Row]) -> dict[str, str]:
    """Ids and texts, with the title before the text as in BEIR: joined by a space, then stripped.

    Queries have no title, and are taken as they stand.
    """
    found: dict[str, str] = {}
    for row in rows:
        key, title, text = row.id("_id"), row.text("title"), row.text("text")
        if key in found:
            raise row.refuse(f"a second _id {key!r}: keep one of the two")
        found[key] = f"{title} {text}".strip() if "title" in row.values else text
    return found


def _data_root() -> Path | None:
    """The folder of LEAP_DATA, if it is set."""
    value = os.environ.get("LEAP_DATA")
    if not value:
        return None
    if not Path(value).is_dir():
        raise UsageError(f"LEAP_DATA: there is no folder {value!r}: correct it, or unset it to use the Hub")
    return Path(value)


def _json_file(folder: Path, name: str) -> str:
    found = next((p for end in (".jsonl.gz", ".jsonl") if (p := folder / f"{name}{end}").is_file()), None)
    if found is None:
        raise UsageError(f"--data: {str(folder)!r} has no {name}.jsonl(.gz): give a folder in BEIR's layout")
    return str(found)


def _hub_rows(
    repository: str,
    split: str,
    columns: tuple[str, ...],
    argument: str = "--data",
    optional: tuple[str, ...] = (),
) -> Iterable[Row]:
    return TextSource(repository, split, argument=argument).rows(columns, optional, streaming=False)
