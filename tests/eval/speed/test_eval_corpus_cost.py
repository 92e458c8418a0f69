"""Cost of a corpus: a real run of it, and the arithmetic from there."""

import json
from pathlib import Path

import pytest

from eval.__main__ import main
from eval.speed.corpus_cost import extrapolate, measure_cost
from eval.stress.survival import make_inputs


def test_the_command_writes_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_inputs(tmp_path, 30)
    command = ["corpus_cost", "--model", str(tmp_path / "model"), "--data", str(tmp_path / "texts.jsonl")]
    assert main([*command, "--sizes", "50", "--threads", "1", "--output", str(tmp_path / "cost.json")]) == 0
    figures = json.loads((tmp_path / "cost.json").read_text())["figures"]
    (run,) = figures["runs"]
    assert (run["texts"], figures["different_texts"], run["hidden_size"]) == (50, 30, 32)  # they are repeated
    assert run["seconds"] > run["encode_seconds"] > 0
    assert run["peak_memory_bytes"] > 50 * 2**20
    assert figures["estimate"]["bytes"] == pytest.approx(run["bytes"] / 50 * 10**9)
    assert "10^9 texts on paper" in capsys.readouterr().out
    assert main([*command, "--sizes", "0"]) == 2


def fake_run(texts: int, seconds: float) -> dict[str, object]:
    return {
        "texts": texts,
        "seconds": seconds + 5,
        "encode_seconds": seconds,
        "peak_memory_bytes": 10,
        "bytes": 1600 * texts,
        "hidden_size": 384,
    }


def test_growth_is_the_power_between_sizes_and_ray_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(model: object, texts: list[str], size: int, threads: int, *arguments: str) -> dict[str, object]:
        return fake_run(size, size**1.5 * (2 if arguments else 1))

    monkeypatch.setattr("eval.speed.corpus_cost._run", run)
    figures = measure_cost(["--model", "m"], ["a", "abc"], [100, 1000], 1, ray=True)
    (row,) = figures["growth"]
    assert (row["encode_seconds"], row["peak_memory_bytes"]) == (1.5, 0.0)
    assert (figures["ray"]["slower"], figures["characters"]) == (2.0, 2.0)


def test_the_estimate_is_in_proportion() -> None:
    paper = extrapolate(fake_run(1000, 36.0), 10**6)
    assert paper["hours_on"]["1"] == 10.0  # 36 s, 1000 times
    assert (paper["bytes"], paper["bytes_float16"]) == (1_600_000_000, 1_600_000_000 - 768_000_000)
