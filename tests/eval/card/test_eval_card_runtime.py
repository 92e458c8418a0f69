"""The card's section on libraries: words follow the figures, and it is left out without them."""

from pathlib import Path
from typing import Any

import pytest
from card_toys import RULE, edit, rendered, result, write, write_optional, write_required

from eval.card.card_results import read_results
from eval.speed.peer_targets import races
from leap.errors import UsageError

SECTION = "## Which runtime, when"


def row(size: int, peer: str, variant: str, ms: float, layer: float | None = None) -> dict[str, Any]:
    ratios = [4.0 / ms, 4.0 / ms]
    found = {
        "texts": "sentences" if size == 1 else "passages of 64",
        "batch_size": size,
        "peer": peer,
        "variant": variant,
        "rounds": 2,
        "batches": 2,
        "p50_ms": ms,
        "p95_ms": 2 * ms,
        "sentences_per_s": 1000 * size / ms,
        "ratio": ratios[0],
        "ratios": ratios,
        "mean_exit_layer": layer,
    }
    return found


def exits(size: int, peer: str, ms: float, full: float) -> dict[str, Any]:
    found = row(size, peer, "exits", ms, 2.0)
    return found | {
        "speedup": full / ms,
        "speedups": [full / ms] * 2,
        "possible": 2.0,
        "share": full / ms / 2,
    }


def comparison() -> dict[str, Any]:
    """LEAP wins batch 1 and loses batch 32 to the float32 peer; its int8 library races int8 peers alone."""
    peers = {}
    for name, model, precision in (
        ("st", "teacher", "float32"),
        ("ort8", "teacher", "int8"),
        ("leap-a", "leap", "float32"),
        ("leap-b", "leap", "int8"),
    ):
        peers[name] = {
            "title": f"library {name}",
            "model": model,
            "precision": precision,
            "load_s": 1.25,
            "loaded_mb": 300.0,
            "peak_mb": 1234.5,
        }
    rows = [
        row(1, "st", "full depth", 4.0),
        row(1, "ort8", "full depth", 1.5),
        row(1, "leap-a", "full depth", 3.0, 4.0),
        exits(1, "leap-a", 1.6, 3.0),
        row(1, "leap-b", "full depth", 1.5, 4.0),
        exits(1, "leap-b", 1.0, 1.5),
        row(32, "st", "full depth", 4.0),
        row(32, "ort8", "full depth", 4.0),
        row(32, "leap-a", "full depth", 4.0, 4.0),
        exits(32, "leap-a", 5.0, 4.0),
        row(32, "leap-b", "full depth", 3.0, 4.0),
        exits(32, "leap-b", 2.0, 3.0),
    ]
    variants = dict.fromkeys((entry["peer"], entry["variant"]) for entry in rows)
    quality = [
        {"peer": name, "variant": variant, "spearman": 0.81234, "mean_exit_layer": None}
        for name, variant in variants
    ]
    kind = {"different": 2000, "mean_tokens": 14.26, "least_tokens": 5, "most_tokens": 60, "joined": False}
    figures = {
        **RULE,
        "threads": 2,
        "layers": 4,
        "baseline": "st",
        "texts": [{"name": "sentences", **kind}, {"name": "passages of 64", **kind}],
        "peers": peers,
        "missing": {"fast": {"title": "fast", "install": "pip install fast"}},
        "quality": quality,
        "rows": rows,
    }
    return result("peers", "stsb/test", figures)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    results = write_required(tmp_path)
    write_optional(results)
    write(results / "peers-cpu.json", comparison())
    return results


def test_left_out_without_its_file(folder: Path) -> None:
    assert SECTION in rendered(folder)
    (folder / "peers-cpu.json").unlink()
    bare = rendered(folder)
    assert SECTION not in bare
    assert "\n\n\n" not in bare


def test_tables_and_words(folder: Path) -> None:
    text = rendered(folder)
    assert "\n\n\n" not in text
    for wanted in (
        "**P, 2 threads each**; torch 9.9, transformers 8.8.",
        "Sentences: 2,000 different, 14.3 tokens on average (5 to 60).",
        "| sentences, batch 1 | library leap-a, 1.60 ms | library leap-b, 1.00 ms |",
        "| **LEAP, library leap-a, exits** | float32 | 0.8123 | 1,234 | 1.2 | 1.60 / 3.20; 625/s; 2.50x |",
        "| LEAP, library leap-a | 1.88 of 2.00 (94%) | 0.80 of 2.00 (40%), below |",
        "| LEAP, library leap-b | 1.50 of 2.00 (75%), below | 1.50 of 2.00 (75%), below |",
        "| teacher, library st | float32 | 2.50 | **0.80, slower** |",
        "| teacher, library ort8 | int8 | 1.50 | 2.00 |",
        "as fast as full depth in the same library, batch 1: in 1 of 2 cases.",
        "at least 90 % of layers over mean exit layer, batch 1: in 1 of 2 cases.",
        "at least 85 % of it in larger batches: in 0 of 2 cases.",
        "ahead of a peer of the same or a lower precision: in 3 of 4 cases.",
        "- teacher, library st is as fast or faster on 64 tokens, batch 32 (0.80 times LEAP's time).",
        "- exits do not pay in LEAP, library leap-a on 64 tokens, batch 32 (speedup 0.80).",
        "Not measured, as they were not installed: fast (`pip install fast`).",
    ):
        assert wanted in text


def test_int8_does_not_race_float32(folder: Path) -> None:
    figures = read_results(folder, folder.parent / "config.json").peers[0]["figures"]
    found = {(race.peer, race.batch_size): race.leap for race in races(figures)}
    assert found == {("st", 1): "leap-a", ("ort8", 1): "leap-b", ("st", 32): "leap-a", ("ort8", 32): "leap-b"}


def test_another_rule_is_refused(folder: Path) -> None:
    def other(content: dict[str, Any]) -> None:
        content["figures"]["exit_threshold"] = 0.5

    edit(folder / "peers-cpu.json", other)
    with pytest.raises(UsageError, match=r"peers-cpu\.json is not of config\.json's exit rule"):
        rendered(folder)
