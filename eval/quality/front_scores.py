"""Scores of tasks: Spearman's correlation and nDCG@10 of a rule, its ends, a coin and the teacher."""

from typing import Any

import numpy as np

from eval.quality.front_measure import Measured
from eval.quality.front_rules import Rule
from eval.quality.retrieval import query_metrics, rank
from leap.encode.exits import FloatArray, row_cosines
from leap.encode.metrics import bootstrap_interval, spearman
from leap.text.sets import RetrievalData, StsData

FLIPS = 20  # that the score of a coin is the mean of, where it has no exact one


def similarity_scores(data: StsData, measured: Measured, teacher: FloatArray, rule: Rule) -> dict[str, Any]:
    """Spearman's correlation with gold similarity, of N pairs.

    Args:
        data: the pairs.
        measured: their N first sentences, then the N second ones.
        teacher: (2N, H) the teacher's embeddings of them.
        rule: an exit rule.

    Returns:
        `teacher`, `full_depth`, `all_leap`, `rule` and its 95 % bootstrap `interval`, and `coin` of the same
        cost in layers.
    """

    def cosines(embeddings: FloatArray) -> FloatArray:
        return row_cosines(*np.split(embeddings, 2))

    paths, taken = measured.paths, rule.taken(measured.paths)
    every = np.arange(len(taken))
    by_rule = cosines(paths.embeddings[every, taken])
    staying = (taken == len(paths.layers)).mean()
    random = np.random.default_rng(0)
    flips = [
        cosines(np.where(random.random((len(taken), 1)) < staying, paths.full, paths.leap))
        for _ in range(FLIPS)
    ]
    return {
        "teacher": float(spearman(cosines(teacher), data.scores)),
        "full_depth": float(spearman(cosines(paths.full), data.scores)),
        "all_leap": float(spearman(cosines(paths.leap), data.scores)),
        "rule": float(spearman(by_rule, data.scores)),
        "interval": list(bootstrap_interval(by_rule, data.scores, seed=0)),
        "coin": float(np.mean([spearman(flip, data.scores) for flip in flips])),
    }


def retrieval_scores(
    data: RetrievalData,
    queries: Measured,
    documents: Measured,
    teacher: tuple[FloatArray, FloatArray],
    rule: Rule,
) -> dict[str, Any]:
    """nDCG@10 over the teacher's document embeddings, and over the model's own.

    Args:
        data: Q queries, D documents, judgements.
        queries: the queries.
        documents: the documents.
        teacher: the teacher's embeddings of the queries (Q, H) and of the documents (D, H).
        rule: an exit rule.

    Returns:
        `over_teacher`: of queries by the `teacher`, at `full_depth`, when `all_leap`, by the `rule`, and by a
        `coin` of the same cost, its expected score; `interval`, 95 %, of rule over teacher less 1, over
        resamples of the queries. `over_own`: the model for queries and documents alike.
    """

    def ndcg(asked: FloatArray, index: FloatArray) -> FloatArray:
        found = rank(asked, index, list(data.queries), list(data.documents))
        return query_metrics(data.qrels, found)["ndcg@10"]

    taken = rule.taken(queries.paths)
    every = np.arange(len(taken))
    by_path = [ndcg(queries.paths.embeddings[:, path], teacher[1]) for path in range(queries.errors.shape[1])]
    by_rule = np.stack(by_path, axis=1)[every, taken]
    by_teacher = ndcg(*teacher)
    staying = float((taken == len(queries.paths.layers)).mean())
    draws = np.random.default_rng(0).integers(len(taken), size=(1000, len(taken)))
    low, high = np.quantile(by_rule[draws].mean(axis=1) / by_teacher[draws].mean(axis=1) - 1, [0.025, 0.975])
    full, leap = float(by_path[-1].mean()), float(by_path[0].mean())
    exits = [
        each.paths.embeddings[np.arange(len(each.errors)), rule.taken(each.paths)]
        for each in (queries, documents)
    ]
    return {
        "over_teacher": {
            "teacher": float(by_teacher.mean()),
            "full_depth": full,
            "all_leap": leap,
            "rule": float(by_rule.mean()),
            "interval": [float(low), float(high)],
            "coin": staying * full + (1 - staying) * leap,
        },
        "over_own": {
            "full_depth": float(ndcg(queries.paths.full, documents.paths.full).mean()),
            "all_leap": float(ndcg(queries.paths.leap, documents.paths.leap).mean()),
            "rule": float(ndcg(*exits).mean()),
        },
    }
