"""Shared by all timings: a clock that waits for the device, and interleaving."""

import math
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import torch
from tqdm import tqdm

from leap.encode.exits import FloatArray

Result = TypeVar("Result")


def clock(device: torch.device) -> float:
    """The time in milliseconds, after all work queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() * 1000


def in_turns(
    variants: Mapping[str, Callable[[int], Result]],
    *,
    rounds: int,
    warm_up: int,
    device: torch.device,
    bar: tqdm | None = None,
    seconds: float = math.inf,
    at_least: int = 1,
) -> tuple[dict[str, FloatArray], dict[str, list[Result]]]:
    """Time variants of the same work A B A B, so that changes in machine speed affect all of them.

    Args:
        variants: by name; each is called with the number of the round, from 0.
        rounds: timed calls of each, at most.
        warm_up: calls of each before, which are not timed; with the numbers of the last rounds.
        device: what they run on.
        bar: a progress bar to move by 1 for every timed round.
        seconds: no round begins after so long, the warm-up not counted.
        at_least: rounds that are timed however long they take.

    Returns:
        For each variant the (rounds timed,) milliseconds that its calls took, and what they returned.
    """
    milliseconds: dict[str, list[float]] = {name: [] for name in variants}
    results: dict[str, list[Result]] = {name: [] for name in variants}
    begun = math.inf
    for number in range(-warm_up, rounds):
        if number == 0:
            begun = time.monotonic()
        if number >= at_least and time.monotonic() - begun > seconds:
            break
        for name, variant in variants.items():
            since = clock(device)
            result = variant(number % rounds)
            until = clock(device)
            if number >= 0:
                milliseconds[name].append(until - since)
                results[name].append(result)
        if bar is not None and number >= 0:
            bar.update(1)
    return {name: np.array(values) for name, values in milliseconds.items()}, results
