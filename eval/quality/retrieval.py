"""Retrieval: nDCG@10 and Recall@100 with exits on either side, and over an index that the teacher made.

python -m eval retrieval --model . --teacher sentence-transformers/all-MiniLM-L6-v2 --data scifact
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytrec_eval

from eval.report import Report
from leap.arguments import add_common_arguments, add_exit_arguments, check_writable, numbers
from leap.encode.encoder import Encoder, encode, encode_layers, find_model, load_encoder
from leap.encode.exits import (
    FloatArray,
    IntArray,
    at_layers,
    exit_layers,
    successive_cosines,
    theta_text,
    unit_vectors,
)
from leap.errors import UsageError
from leap.files import atomic_write, checksum
from leap.text.sets import Qrels, RetrievalData, load_retrieval

DEFAULT_CACHE = Path("~/.cache/leap")
METRICS = {"ndcg@10": "ndcg_cut.10", "recall@100": "recall.100"}  # ours -> trec_eval's
DEPTH_OF_RANKING = 100
SETTINGS = {
    "teacher": "teacher, teacher's documents",
    "full_depth": "full depth, own documents",
    "exits": "exits, own documents with exits",
    "exit_queries": "query exits, own documents",
    "teacher_documents": "query exits, teacher's documents",
}


def evaluate_retrieval(
    encoder: Encoder,
    data: RetrievalData,
    *,
    teacher: Encoder | None = None,
    own_documents: bool = True,
    exit_threshold: float | Literal["config"] | None = "config",
    min_exit_layer: int | None = None,
    thetas: Sequence[float] = (),
    cache: Path = DEFAULT_CACHE,
    batch_size: int = 64,
    progress: bool = False,
) -> dict[str, Any]:
    """nDCG@10 and Recall@100 of trec_eval, by cosine, in up to five settings.

    Args:
        encoder: the model under test.
        data: documents, queries, judgements; a document whose id is the query's is dropped, as in BEIR.
        teacher: the encoder that made the index of the settings named after it; None: leave them out.
        own_documents: evaluate the settings whose documents the model embeds, too.
        exit_threshold: theta; "config": the model's own; None: leave out the settings with exits.
        min_exit_layer: l_min; None: the model's own.
        thetas: further thresholds, to let queries out by over the teacher's documents.
        cache: folder of document embeddings, so that the next run has them at once.
        batch_size: texts a forward pass.
        progress: show progress bars.

    Returns:
        `documents` and `queries`, how many; `exit_rule`; `settings`: name -> `ndcg@10`, `recall@100`, and
        `mean_query_layer` and `mean_document_layer` of the model under test (None where another encoder did
        it); `query_exit_histogram` at layers 1 .. L; `static_queries`: the scores over the teacher's
        documents with all queries cut at each `layer`, and `grid`: those with query exits at each of
        `thetas`, with the rule and `mean_query_layer` (both None without a teacher).

    Raises:
        UsageError: a threshold out of range, nothing to evaluate, or a teacher of another width.
    """
    theta, first_layer, patience = own_rule = encoder.exit_rule(exit_threshold, min_exit_layer)
    for other in thetas:
        encoder.exit_rule(other, min_exit_layer)  # a wrong one stops here, before the work
    if not own_documents and teacher is None:
        raise UsageError("--teacher_documents_only: needs the encoder of those documents: give --teacher")
    if teacher and teacher.model.config.hidden_size != encoder.model.config.hidden_size:
        raise UsageError(f"--teacher: {teacher.name!r} has vectors of another width than the model's")

    def score(queries: FloatArray, documents: FloatArray) -> dict[str, float]:
        return rank_metrics(data.qrels, rank(queries, documents, list(data.queries), list(data.documents)))

    depth = encoder.depth
    asked = list(data.queries.values())
    label = f"queries of {data.name}" if progress else None
    queries = encode_layers(encoder, asked, batch_size=batch_size, progress=label)
    exit_queries, query_exits = _leave(queries, *own_rule)
    mean_query = None if query_exits is None else float(query_exits.mean())
    settings: dict[str, dict[str, Any]] = {}
    static: list[dict[str, Any]] | None = None
    grid: list[dict[str, Any]] | None = None

    if teacher:
        index = cached_documents(teacher, data, cache, batch_size=batch_size, progress=progress)
        by_teacher = encode(teacher, asked, batch_size=batch_size, exit_threshold=None)
        settings["teacher"] = score(by_teacher.embeddings, index) | _means(None, None)
        static = [{"layer": layer + 1, **score(queries[:, layer], index)} for layer in range(depth)]
        if exit_queries is not None:
            settings["teacher_documents"] = score(exit_queries, index) | _means(mean_query, None)
        cosines = successive_cosines(queries, patience)
        grid = []
        for other in thetas:
            left = exit_layers(cosines, other, first_layer)
            rule = {"exit_threshold": other, "min_exit_layer": first_layer}
            found = score(at_layers(queries, left), index)
            grid.append(rule | {"mean_query_layer": float(left.mean())} | found)
    if own_documents:
        documents = cached_documents(
            encoder, data, cache, every_layer=True, batch_size=batch_size, progress=progress
        )
        exit_documents, document_exits = _leave(documents, *own_rule)
        settings["full_depth"] = score(queries[:, -1], documents[:, -1]) | _means(depth, depth)
        if exit_queries is not None:
            mean_document = float(document_exits.mean())
            settings["exits"] = score(exit_queries, exit_documents) | _means(mean_query, mean_document)
            settings["exit_queries"] = score(exit_queries, documents[:, -1]) | _means(mean_query, depth)
    return {
        "documents": len(data.documents),
        "queries": len(data.queries),
        "exit_rule": {"exit_threshold": theta, "min_exit_layer": first_layer, "exit_patience": patience},
        "settings": {name: settings[name] for name in SETTINGS if name in settings},
        "query_exit_histogram": (
            None if query_exits is None else np.bincount(query_exits, minlength=depth + 1)[1:].tolist()
        ),
        "static_queries": static,
        "grid": grid,
    }


def _leave(
    layers: FloatArray, theta: float | list[float | None] | None, first_layer: int, patience: int
) -> tuple[FloatArray | None, IntArray | None]:
    """Of all layers' embeddings (N, L, H) those at the exits (N, H) and the exit layers (N,), if any."""
    if theta is None:
        return None, None
    left = exit_layers(successive_cosines(layers, patience), theta, first_layer)
    return at_layers(layers, left), left


def _means(query: float | None, document: float | None) -> dict[str, float | None]:
    return {"mean_query_layer": query, "mean_document_layer": document}


def rank(
    queries: FloatArray, documents: FloatArray, query_ids: list[str], document_ids: list[str]
) -> dict[str, dict[str, float]]:
    """The 100 nearest documents of every query by cosine, without the one that is the query itself.

    Args:
        queries: (Q, H) vectors of any length.
        documents: (D, H) vectors of any length.
        query_ids: Q ids.
        document_ids: D ids.

    Returns:
        query id -> document id -> cosine.
    """
    queries, documents = (unit_vectors(vectors) for vectors in (queries, documents))
    nearest = min(DEPTH_OF_RANKING + 1, len(document_ids))  # one more, for the query itself
    ranking = {}
    for query_id, query in zip(query_ids, queries, strict=True):
        scores = documents @ query
        top = np.argpartition(-scores, nearest - 1)[:nearest]
        top = top[np.argsort(-scores[top], kind="stable")]
        found = {document_ids[at]: float(scores[at]) for at in top if document_ids[at] != query_id}
        ranking[query_id] = dict(list(found.items())[:DEPTH_OF_RANKING])
    return ranking


def rank_metrics(qrels: Qrels, ranking: dict[str, dict[str, float]]) -> dict[str, float]:
    """nDCG@10 and Recall@100 as trec_eval computes them, means over the queries of `ranking`.

    Args:
        qrels: query id -> document id -> gain; one without any gain above 0 counts with 0, as in BEIR.
        ranking: query id -> document id -> score, the higher the better; no document at all counts with 0.
    """
    return {name: float(values.mean()) for name, values in query_metrics(qrels, ranking).items()}


def query_metrics(qrels: Qrels, ranking: dict[str, dict[str, float]]) -> dict[str, FloatArray]:
    """The two metrics of each query, (Q,) in the order of `ranking`; arguments as of `rank_metrics`."""
    found = pytrec_eval.RelevanceEvaluator(qrels, set(METRICS.values())).evaluate(ranking)
    return {
        name: np.array([found.get(query, {}).get(key.replace(".", "_"), 0.0) for query in ranking])
        for name, key in METRICS.items()
    }


def cached_documents(
    encoder: Encoder,
    data: RetrievalData,
    cache: Path,
    *,
    every_layer: bool = False,
    batch_size: int = 64,
    progress: bool = False,
) -> FloatArray:
    """The documents' embeddings at full depth, (D, H) float32, or with `every_layer` at all, (D, L, H).

    From `cache` where they have been computed before: they are stored under the checksum of the documents and
    of all that the encoder's embeddings depend on, as plain .npy: nothing in it is ever unpickled.
    """
    parts = [encoder.fingerprint(), data.corpus_sha256]
    path = cache.expanduser() / f"{checksum(parts + ['every layer'] * every_layer)}.npy"
    if path.is_file():
        return np.load(path, allow_pickle=False)
    texts = list(data.documents.values())
    label = f"documents of {data.name}, {encoder.name}" if progress else None
    how = {"batch_size": batch_size, "progress": label}
    if every_layer:
        found = encode_layers(encoder, texts, **how)
    else:
        found = encode(encoder, texts, exit_threshold=None, **how).embeddings
    with atomic_write(path) as file:
        np.save(file, found, allow_pickle=False)
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this evaluation."""
    add_common_arguments(parser)
    add_exit_arguments(parser)
    parser.add_argument(
        "--data", default="scifact", help="folder in BEIR's layout, a short name such as scifact, or a Hub id"
    )
    parser.add_argument("--teacher", help="encoder of an index that stays as it is; named as --model is")
    parser.add_argument(
        "--teacher_documents_only",
        action="store_true",
        help="only the settings over the teacher's documents: the others embed all documents anew",
    )
    parser.add_argument(
        "--thetas",
        type=numbers(float),
        default=(),
        help="further thresholds for queries over the teacher's documents, such as 0.9,0.95",
    )
    parser.add_argument(
        "--cache", type=Path, default=DEFAULT_CACHE, help="folder of document embeddings (%(default)s)"
    )


def run(args: argparse.Namespace) -> Report:
    """Run it as the command does."""
    check_writable("--output", args.output)
    check_writable("--cache", args.cache.expanduser() / "embeddings")
    find_model(args.model)
    if args.teacher:
        find_model(args.teacher, "--teacher")
    elif args.teacher_documents_only or args.thetas:
        argument = "--teacher_documents_only" if args.teacher_documents_only else "--thetas"
        raise UsageError(f"{argument}: needs the encoder of those documents: give --teacher")
    data = load_retrieval(args.data, args.split)
    encoder = load_encoder(args.model, trust_remote_code=args.trust_remote_code, device=args.device)
    models = {"model": encoder}
    if args.teacher:
        models["teacher"] = load_encoder(args.teacher, device=args.device, argument="--teacher")
    figures = evaluate_retrieval(
        encoder,
        data,
        teacher=models.get("teacher"),
        own_documents=not args.teacher_documents_only,
        exit_threshold=args.exit_threshold,
        min_exit_layer=args.min_exit_layer,
        thetas=args.thetas,
        cache=args.cache,
        batch_size=args.batch_size,
        progress=True,
    )
    return Report(figures, _summary(data, figures), models, data)


def _summary(data: RetrievalData, figures: dict[str, Any]) -> str:
    rule = figures["exit_rule"]
    lines = [
        f"{data.name}: {figures['documents']} documents, {figures['queries']} queries; "
        f"theta {theta_text(rule['exit_threshold'])}, l_min {rule['min_exit_layer']}",
        f"  {'':<34}{'nDCG@10':>9}{'Recall@100':>12}{'query layer':>13}{'doc layer':>11}",
    ]
    rows = [(SETTINGS[name], row) for name, row in figures["settings"].items()]
    for row in figures["static_queries"] or ():
        rows.append((f"queries at layer {row['layer']}, teacher's docs", row | _means(row["layer"], None)))
    for row in figures["grid"] or ():
        name = f"query exits, theta {row['exit_threshold']:g}, teacher's docs"
        rows.append((name, row | _means(row["mean_query_layer"], None)))
    for name, row in rows:
        depths = [row["mean_query_layer"], row["mean_document_layer"]]
        query, document = ("-" if depth is None else f"{depth:.2f}" for depth in depths)
        lines.append(f"  {name:<34}{row['ndcg@10']:>9.4f}{row['recall@100']:>12.4f}{query:>13}{document:>11}")
    return "\n".join(lines)
