"""Retrieval: nDCG@10 and Recall@100 with exits on either side, and over the teacher's index.

python -m eval retrieval --model . --teacher sentence-transformers/all-MiniLM-L6-v2 --data scifact
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytrec_eval

from configuration_leap import ExitThreshold
from eval.frame import Batched, OfModel
from eval.quality.cache import DEFAULT_CACHE, cached_embeddings, cached_paths
from eval.report import Report
from leap.arguments import option, threshold
from leap.encode.encoder import Encoder, find_model, load_encoder
from leap.encode.exits import FloatArray, theta_text, unit_vectors
from leap.encode.paths import Paths
from leap.errors import UsageError
from leap.files import check_writable
from leap.text.sets import Qrels, RetrievalData, load_retrieval

METRICS = {"ndcg@10": "ndcg_cut.10", "recall@100": "recall.100"}  # ours -> trec_eval's
DEPTH_OF_RANKING = 100
SETTINGS = {
    "teacher": "teacher, teacher's documents",
    "full_depth": "full depth, own documents",
    "exits": "exits, own documents with exits",
    "exit_queries": "query exits, own documents",
    "full_queries": "full depth, teacher's documents",
    "teacher_documents": "query exits, teacher's documents",
}


@dataclass(kw_only=True)
class Options(Batched, OfModel):
    """Options of this evaluation."""

    data: str = option("folder in BEIR's layout, a short name such as scifact, or a Hub id", "scifact")
    split: str = option("split of the judgements", "test")
    teacher: str | None = option("encoder of an existing index; given like --model", None)
    exit_threshold: str = option("theta, none for full depth, or config for the model's own", "config")
    teacher_documents_only: bool = option(
        "only the settings over the teacher's documents: the others embed all documents anew", False
    )
    cache: Path = option("folder of document embeddings", DEFAULT_CACHE)

    def __post_init__(self) -> None:
        """See `eval.frame.Options`."""
        super().__post_init__()
        threshold(self.exit_threshold)
        check_writable("--cache", self.cache.expanduser() / "embeddings")
        if self.teacher:
            find_model(self.teacher, "--teacher")
        elif self.teacher_documents_only:
            raise UsageError("--teacher_documents_only: needs the encoder of those documents: give --teacher")


def evaluate_retrieval(
    encoder: Encoder,
    data: RetrievalData,
    *,
    teacher: Encoder | None = None,
    own_documents: bool = True,
    exit_threshold: ExitThreshold | str = "config",
    cache: Path = DEFAULT_CACHE,
    batch_size: int = 64,
    progress: bool = False,
) -> dict[str, Any]:
    """nDCG@10 and Recall@100 of trec_eval, by cosine, in up to six settings.

    Args:
        encoder: the model under test.
        data: documents, queries, judgements; a document whose id is the query's is dropped, as in BEIR.
        teacher: the encoder that made the index of the settings named after it; None: leave them out.
        own_documents: evaluate the settings whose documents the model embeds, too.
        exit_threshold: theta; "config": the model's own; None: leave out the settings with exits.
        cache: folder of embeddings, so that the next run has them at once.
        batch_size: texts a forward pass.
        progress: show progress bars.

    Returns:
        `documents` and `queries`, how many; `exit_rule`; `settings`: name -> `ndcg@10`, `recall@100`,
        and `query_layers` and `document_layers`, mean layers that the model under test runs a text (None
        where another encoder did it).

    Raises:
        UsageError: a threshold out of range, or a teacher of another width.
    """
    theta, _, _ = encoder.exit_rule(exit_threshold)
    if teacher and teacher.model.config.hidden_size != encoder.model.config.hidden_size:
        raise UsageError(f"--teacher: {teacher.name!r} has vectors of another width than the model's")
    asked, texts = list(data.queries.values()), list(data.documents.values())
    settings: dict[str, dict[str, Any]] = {}

    def paths(what: str, texts: list[str]) -> Paths:
        label = f"{what} of {data.name}, {encoder.name}" if progress else None
        return cached_paths(encoder, texts, cache, batch_size=batch_size, progress=label)

    def add(name: str, queries: FloatArray, documents: FloatArray, *layers: float | None) -> None:
        found = rank(queries, documents, list(data.queries), list(data.documents))
        costs = dict(zip(("mean_query_layers_run", "mean_document_layers_run"), layers, strict=True))
        settings[name] = rank_metrics(data.qrels, found) | costs

    queries, depth = paths("queries", asked), encoder.depth
    query_cost = float(queries.cost(theta).mean())
    if teacher:
        how = {"batch_size": batch_size, "progress": f"{data.name}, {teacher.name}" if progress else None}
        index, by_teacher = (cached_embeddings(teacher, part, cache, **how) for part in (texts, asked))
        add("teacher", by_teacher, index, None, None)
        add("full_queries", queries.full, index, depth, None)
        if theta is not None:
            add("teacher_documents", queries.at(theta), index, query_cost, None)
    if own_documents:
        documents = paths("documents", texts)
        add("full_depth", queries.full, documents.full, depth, depth)
        if theta is not None:
            add(
                "exits",
                queries.at(theta),
                documents.at(theta),
                query_cost,
                float(documents.cost(theta).mean()),
            )
            add("exit_queries", queries.at(theta), documents.full, query_cost, depth)
    return {
        "documents": len(texts),
        "queries": len(asked),
        "exit_rule": encoder.rule_in_force(theta),
        "settings": {name: settings[name] for name in SETTINGS if name in settings},
    }


def rank(
    queries: FloatArray, documents: FloatArray, query_ids: list[str], document_ids: list[str]
) -> dict[str, dict[str, float]]:
    """The 100 nearest documents to every query by cosine, excluding the query itself.

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


def run(options: Options) -> Report:
    """Evaluate a model on the set asked for."""
    data = load_retrieval(options.data, options.split)
    models = {"model": options.encoder()}
    if options.teacher:
        models["teacher"] = load_encoder(options.teacher, device=options.device, argument="--teacher")
    figures = evaluate_retrieval(
        models["model"],
        data,
        teacher=models.get("teacher"),
        own_documents=not options.teacher_documents_only,
        exit_threshold=threshold(options.exit_threshold),
        cache=options.cache,
        batch_size=options.batch_size,
        progress=True,
    )
    return Report(figures, _summary(data, figures), models, data)


def _summary(data: RetrievalData, figures: dict[str, Any]) -> str:
    lines = [
        f"{data.name}: {figures['documents']} documents, {figures['queries']} queries; "
        f"theta {theta_text(figures['exit_rule']['exit_threshold'])}",
        f"  {'':<34}{'nDCG@10':>9}{'Recall@100':>12}{'query layers':>14}{'doc layers':>12}",
    ]
    for name, row in figures["settings"].items():
        costs = [row["mean_query_layers_run"], row["mean_document_layers_run"]]
        query, document = ("-" if cost is None else f"{cost:.2f}" for cost in costs)
        scores = f"{row['ndcg@10']:>9.4f}{row['recall@100']:>12.4f}"
        lines.append(f"  {SETTINGS[name]:<34}{scores}{query:>14}{document:>12}")
    return "\n".join(lines)
