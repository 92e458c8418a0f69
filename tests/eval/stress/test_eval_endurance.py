"""Endurance: a short run of a tiny model, and what a leak, a drift, a slowdown and an error look like."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_data import PAIRS, RULE, save_tiny, write_pairs

from eval.__main__ import main
from eval.stress import endurance
from eval.stress.endurance import MEMORY_BOUND, PARTS, Course, draw_batches, endure, torch_encoder
from leap.encode.encoder import Encoder, Encoding, load_encoder
from modeling_leap import LeapModel

MakeModel = Callable[..., LeapModel]
TEXTS = [text for pair in PAIRS for text in pair[:2]]


@pytest.fixture
def encoder(make_tiny_model: MakeModel, tmp_path: Path) -> Encoder:
    """A tiny model whose texts leave at several layers."""
    return load_encoder(str(save_tiny(tmp_path / "tiny", make_tiny_model(**RULE))), device="cpu")


def test_four_threads_for_two_seconds(encoder: Encoder) -> None:
    one = torch_encoder(encoder)
    course = endure({"torch": one, "again": one}, TEXTS, seconds=2, threads=4)
    figures = course.figures()
    assert figures["errors"] == []
    assert figures["kept"]["drift"]
    assert max(figures["drift"].values()) < 1e-6
    assert figures["probes"] >= 3
    assert min(figures["calls"].values()) > 10
    assert figures["texts"] == course.texts.sum() > 0
    assert len(figures["texts_per_second"]) == len(figures["memory"]) == PARTS


def course(**changes: Any) -> dict[str, Any]:
    """The figures of a run of 100 seconds at which nothing is amiss but the changes."""
    steady: dict[str, Any] = {
        "texts": np.full(PARTS, 1000),
        "memory": [(float(second), 10**9) for second in range(100)],
        "drift": {"torch": 0.0},
        "moved": {"torch": 0},
    }
    return Course(100.0, **(steady | changes)).figures()


def test_what_is_kept_and_what_is_not() -> None:
    assert set(course()["kept"].values()) == {True}
    assert course()["texts_per_second"] == [100.0] * PARTS

    warm_up = [(float(second), 10**9 + min(second, 9) * 10**8) for second in range(100)]
    assert course(memory=warm_up)["memory_growth"] == 0
    leak = [(float(second), 10**9 + second * MEMORY_BOUND // 75) for second in range(100)]
    assert not course(memory=leak)["kept"]["memory"]
    assert course(memory=leak[:11])["memory_growth"] is None

    slower = np.linspace(1000, 850, PARTS).astype(int)
    assert course(texts=slower)["last_over_first_tenth"] == 0.85
    assert not course(texts=slower)["kept"]["speed"]
    assert not course(drift={"torch": 2e-5})["kept"]["drift"]
    assert not course(moved={"torch": 1})["kept"]["drift"]
    assert not course(errors=["torch: RuntimeError"])["kept"]["errors"]


def test_drift_and_errors_are_noticed(encoder: Encoder) -> None:
    right, since = torch_encoder(encoder), time.monotonic()

    def drifting(texts: Sequence[str], rule: Mapping[str, Any]) -> Encoding:
        found = right(texts, rule)
        return Encoding(found.embeddings + 1e-3 * (time.monotonic() - since), found.exit_layers)

    figures = endure({"torch": drifting}, TEXTS, seconds=0.3, threads=2).figures()
    assert 1e-5 < figures["drift"]["torch"] < 1
    assert not figures["kept"]["drift"]

    def failing(texts: Sequence[str], rule: Mapping[str, Any]) -> Encoding:
        if len(texts) == 64:
            raise RuntimeError("Already borrowed")
        return right(texts, rule)

    figures = endure({"torch": failing}, TEXTS, seconds=60, threads=2).figures()
    assert "torch: RuntimeError: Already borrowed" in figures["errors"]

    def infinite(texts: Sequence[str], rule: Mapping[str, Any]) -> Encoding:
        return Encoding(np.full((len(texts), 2), np.inf), np.ones(len(texts), dtype=int))

    with np.errstate(invalid="ignore"):
        assert "not finite" in endure({"x": infinite}, TEXTS, seconds=9, threads=1).errors[0]


def test_batches_are_the_same_every_time() -> None:
    batches = draw_batches(TEXTS)
    assert batches == draw_batches(TEXTS)
    assert {len(batch) for batch in batches} == {1, 2, 4, 8, 16, 32, 64}


def test_command(encoder: Encoder, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pairs, output = write_pairs(tmp_path / "pairs.csv"), tmp_path / "out.json"
    command = ["endurance", "--model", encoder.name, "--data", str(pairs), "--minutes", "0.02"]
    assert main([*command, "--threads", "2", "--output", str(output)]) == 0
    figures = json.loads(output.read_text())["figures"]
    assert figures["threads"] == 2
    assert figures["kept"]["drift"] and figures["kept"]["errors"]
    assert endurance.MEMORY_BOUND == figures["memory_bound"]
    assert "drift: {'torch': " in capsys.readouterr().out
