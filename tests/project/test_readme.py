"""The README repeats figures of results/ and has none of its own."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

RESULTS = ("sts-*.json", "retrieval-*.json", "pareto-stsb-test.json", "latency-*.json")


def numbers(content: object) -> Iterator[float]:
    """All numbers in the JSON `content`."""
    if isinstance(content, dict | list):
        for value in content.values() if isinstance(content, dict) else content:
            yield from numbers(value)
    elif isinstance(content, float):
        yield content


@pytest.mark.parametrize(
    ("pattern", "digits"), [(r"\b0\.\d{4}\b", 4), (r"(?:layer|to|by|makes it) ([1-5]\.\d\d)\b", 2)]
)
def test_figures_are_in_the_results(repo_root: Path, pattern: str, digits: int) -> None:
    text = (repo_root / "README.md").read_text().partition("## Where it stands")[2].partition("\n## ")[0]
    found = set(re.findall(pattern, text))
    assert len(found) >= 4
    files = [path for name in RESULTS for path in (repo_root / "results").glob(name)]
    measured = {f"{value:.{digits}f}" for path in files for value in numbers(json.loads(path.read_text()))}
    assert found <= measured, f"not in results/: {sorted(found - measured)}"


def test_texts_seen_are_those_of_the_logs(repo_root: Path) -> None:
    runs = [json.loads(path.read_text())["run"] for path in (repo_root / "results").glob("train-*.json")]
    seen = sum(
        run["steps"] * run["batch_size"] * run["gradient_accumulation_steps"] * run["processes"]
        for run in runs
    )
    assert f"{seen:,} texts" in (repo_root / "README.md").read_text()
