"""Cost of a corpus: a real run of it, and the arithmetic from there."""

import json
from pathlib import Path

import pytest

from eval.__main__ import main
from eval.speed.corpus_cost import extrapolate, measure_cost
from eval.stress.survival import make_inputs


def test_the_command_writes_what_it_measured(tmp_path: Path) -> None:
    make_inputs(tmp_path, 30)
    command = ["corpus_cost", "--model", str(tmp_path / "model"), "--data", str(tmp_path / "texts.jsonl")]
    assert main([*command, "--sizes", "50", "--threads", "1", "--output", str(tmp_path / "cost.json")]) == 0
    figures = json.loads((tmp_path / "cost.json").read_text())["figures"]
    (run,) = figures["runs"]
    assert (run["texts"], run["shards"], figures["different_texts"]) == (50, 1, 30)  # the texts are repeated
    seconds = run["seconds"]
    parts = sum(seconds[name] for name in ("program start", "start", "wait for input", "encode", "write"))
    assert parts == pytest.approx(seconds["total"], abs=0.1)
    assert seconds["program start"] > seconds["write"]
    assert figures["estimate"]["shards"] == 20_000


def fake_run(texts: int, seconds: float) -> dict[str, object]:
    return {
        "texts": texts,
        "seconds": {"total": seconds, "encode": seconds, "tokenise": 0.0, "read": 1.0, "write": 0.0},
        "peak_memory_bytes": 10,
        "bytes": 1600 * texts,
        "hidden_size": 384,
        "shard_size": 50,
        "manifest_bytes": 7,
    }


def test_growth_is_the_power_between_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "eval.speed.corpus_cost._run", lambda model, texts, size, *_: fake_run(size, size**1.5)
    )
    (row,) = measure_cost("m", ["a"], [100, 1000], 1)["growth"]
    assert (row["total"], row["peak_memory"], row["read"], row["write"]) == (1.5, 0.0, 0.0, None)


def test_the_estimate_is_in_proportion() -> None:
    paper = extrapolate(fake_run(1000, 36.0), 10**6, cores=2)
    assert paper["core_hours"] == 20.0  # 36 s on 2 cores, 1000 times
    assert paper["hours_to_read"] == pytest.approx(1000 / 3600, abs=0.01)
    assert (paper["bytes"], paper["bytes_float16"]) == (1_600_000_000, 1_600_000_000 - 768_000_000)
    assert (paper["shards"], paper["manifest_bytes"]) == (20_000, 7)
