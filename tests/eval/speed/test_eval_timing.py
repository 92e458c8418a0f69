"""Timing: variants in turns."""

import time
from collections.abc import Callable

import torch

from eval.speed.timing import in_turns


def test_variants_take_turns_and_the_warm_up_is_not_counted() -> None:
    calls: list[tuple[str, int]] = []

    def variant(name: str, seconds: float) -> Callable[[int], int]:
        def call(number: int) -> int:
            calls.append((name, number))
            time.sleep(seconds)
            return number

        return call

    variants = {"a": variant("a", 0), "b": variant("b", 0.003)}
    times, results = in_turns(variants, rounds=3, warm_up=1, device=torch.device("cpu"))
    assert calls == [(name, number) for number in (2, 0, 1, 2) for name in "ab"]
    assert results == {"a": [0, 1, 2], "b": [0, 1, 2]}
    assert times["a"].shape == times["b"].shape == (3,)
    assert (times["b"] >= 3).all()
    assert (times["a"] >= 0).all()


def test_rounds_end_with_the_time_given() -> None:
    def call(number: int) -> int:
        time.sleep(0.02)
        return number

    def rounds(seconds: float, at_least: int) -> int:
        variants = {"a": call}
        device = torch.device("cpu")
        times, _ = in_turns(variants, rounds=6, warm_up=1, device=device, seconds=seconds, at_least=at_least)
        return len(times["a"])

    assert rounds(0, 3) == 3
    assert rounds(0.03, 1) == 2  # the second began in time; the warm-up's time does not count
    assert rounds(60, 1) == 6
