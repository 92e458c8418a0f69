"""Measured time of a rule, both fixed depths and the rivals' encoders, interleaved on the same texts."""

from typing import Any

import numpy as np

from eval.quality.front_rules import Rule
from eval.speed.timing import in_turns
from leap.encode.encoder import Encoder, encode

SAMPLES = {"one_at_a_time": 64, "batches": 512}  # texts


def measure_time(
    encoders: dict[str, Encoder], rule: Rule, texts: list[str], *, rounds: int, batch_size: int, seed: int = 0
) -> dict[str, Any]:
    """Time per text, including tokenisation.

    Args:
        encoders: `model`, `teacher` and students, by role.
        rule: an exit rule of a constant theta.
        texts: to draw from.
        rounds: timings of each encoder.
        batch_size: of `batches`.
        seed: of the draw.

    Returns:
        Under `one_at_a_time` and `batches`: `texts`, `batch_size`, `milliseconds` a text, the median over
        rounds, of `all_leap`, `rule`, `full_depth` and every other encoder, and `speedup` of each over full
        depth.
    """
    model = encoders["model"]
    asked = {"all_leap": (model, -1.0), "rule": (model, rule.theta), "full_depth": (model, None)}
    asked |= {role: (encoder, None) for role, encoder in encoders.items() if role != "model"}
    found = {}
    for name, count in SAMPLES.items():
        rows = np.random.default_rng(seed).permutation(len(texts))[:count]
        sample = [texts[row] for row in rows]
        size = 1 if name == "one_at_a_time" else batch_size
        variants = {
            role: lambda _, encoder=encoder, theta=theta, sample=sample, size=size: encode(
                encoder, sample, batch_size=size, exit_threshold=theta
            )
            for role, (encoder, theta) in asked.items()
        }
        times, _ = in_turns(variants, rounds=rounds, warm_up=1, device=model.model.device)
        medians = {role: float(np.median(values)) / len(sample) for role, values in times.items()}
        found[name] = {
            "texts": len(sample),
            "batch_size": size,
            "milliseconds": medians,
            "speedup": {role: medians["full_depth"] / median for role, median in medians.items()},
        }
    return found
