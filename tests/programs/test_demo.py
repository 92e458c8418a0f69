"""The demo: one line a text, totals, errors of one line; run as its user runs it, by its file."""

import importlib.util
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import tiny_data
from transformers import dynamic_module_utils

from modeling_leap import LeapModel

# "layer of depth, cosine, two times, text (tokens)"
LINE = re.compile(r"^ +(\d) of (\d) +(-?\d\.\d{4}) +(\d+\.\d+) ms +(\d+\.\d+) ms +(.+) \((\d+) tokens\)$")


@pytest.fixture
def model(tmp_path: Path, make_tiny_model: Callable[..., LeapModel]) -> str:
    return str(tiny_data.save_tiny(tmp_path / "tiny", make_tiny_model(**tiny_data.RULE)))


def run(repo_root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the demo elsewhere than in the repository, so that it can use nothing that lies about there."""
    command = [sys.executable, str(repo_root / "examples" / "demo.py"), *arguments]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}  # a tiny model needs no more
    return subprocess.run(command, capture_output=True, text=True, cwd="/", env=environment, check=False)


def test_a_line_for_every_text_and_the_totals(repo_root: Path, model: str, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("the bird sings\n\na fish\n")
    found = run(
        repo_root, "--model", model, "--texts", "a cat | the dog ran", "--file", str(tmp_path / "texts.txt")
    )
    assert found.returncode == 0, found.stderr
    rows = [match.groups() for match in map(LINE.match, found.stdout.splitlines()) if match]
    assert [row[5] for row in rows] == ["a cat", "the dog ran", "the bird sings", "a fish"]
    assert [int(row[6]) for row in rows] == [4, 5, 5, 4]
    layers = [int(row[0]) for row in rows]
    assert {row[1] for row in rows} == {"6"}
    assert min(layers) < 6
    for layer, cosine in ((int(row[0]), float(row[2])) for row in rows):
        assert (layer == 6) == (cosine > 0.99999)
    mean = sum(layers) / 4
    assert (
        f"4 texts: {mean:.2f} of 6 layers on average, layer ratio {6 / mean:.2f}, measured speedup"
        in found.stdout
    )


@pytest.fixture
def demo(repo_root: Path) -> Iterator[ModuleType]:
    """The demo as a module, for what needs no process of its own."""
    spec = importlib.util.spec_from_file_location("demo", repo_root / "examples" / "demo.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo"] = module  # where its dataclass looks for itself
    spec.loader.exec_module(module)
    level = logging.getLogger("transformers").level
    yield module
    logging.getLogger("transformers").setLevel(level)  # the demo hushes it


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--model", "/nowhere/at/all"], "demo: error: "),
        (["--model", "{model}", "--texts", " | "], "demo: error: --texts and --file hold no text"),
        (["--model", "{model}", "--file", "/nowhere.txt"], "/nowhere.txt"),
        (["--model", "{model}", "--exit_threshold", "7"], "demo: error: exit_threshold must be a number in"),
        (["--model", "/"], "demo: error: --model: '/' holds no checkpoint"),
    ],
)
def test_one_line_for_a_wrong_argument(
    demo: ModuleType,
    model: str,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    complaint: str,
) -> None:
    capsys.readouterr()  # of saving the model
    assert demo.main([argument.format(model=model) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert complaint in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_cache_of_code_that_cannot_be_written_is_named(
    demo: ModuleType, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    for module in (demo, dynamic_module_utils):
        monkeypatch.setattr(module, "HF_MODULES_CACHE", "/dev/null/modules")
    capsys.readouterr()
    assert demo.main(["--model", model]) == 2
    assert "set HF_MODULES_CACHE to a folder that can be written" in capsys.readouterr().err


def test_default_texts_differ_in_length(demo: ModuleType) -> None:
    words = [len(text.split()) for text in demo.read_texts(None, None)]
    assert len(words) >= 10
    assert min(words) <= 2
    assert max(words) >= 40


def test_totals_by_hand(demo: ModuleType) -> None:
    rows = [demo.Row("a", 3, 2, 0.9, 6.0, 2.0), demo.Row("b", 3, 4, 0.95, 6.0, 4.0)]
    found = demo.totals(rows, depth=6)
    assert "3.00 of 6 layers on average, layer ratio 2.00, measured speedup 2.00 (12.0 ms -> 6.0 ms)" in found
    assert "lowest cosine to full depth 0.9000" in found


def test_the_rule_in_words(demo: ModuleType) -> None:
    said = "tested after layer 3 (theta 0.9), layer 4 (theta 0.85); converged texts leave there"
    assert demo.describe({3: 0.9, 4: 0.85}, None) == said
    said = "tested after layer 1 (theta 0.75); converged texts skip to layer 5"
    assert demo.describe({1: 0.75}, 5) == said


def test_a_text_that_leaps_runs_fewer_layers(
    demo: ModuleType,
    tmp_path: Path,
    make_tiny_model: Callable[..., LeapModel],
    capsys: pytest.CaptureFixture[str],
) -> None:
    rule = {"exit_threshold": -1.0, "min_exit_layer": 1, "max_exit_layer": 1, "landing_layer": 5}
    folder = tiny_data.save_tiny(tmp_path / "landing", make_tiny_model(**rule))
    assert demo.main(["--model", str(folder), "--texts", "a cat|the dog ran"]) == 0
    printed = capsys.readouterr().out
    assert "tested after layer 1 (theta -1); converged texts skip to layer 5" in printed
    assert "2 texts: 3.00 of 6 layers on average, layer ratio 2.00" in printed
