"""`processors`: what runs on another processor, and what is said of one that cannot be run on."""

import shlex
import sys
from pathlib import Path

import pytest
from tiny_data import PAIRS, write_data

from eval.__main__ import main
from eval.stress.processors import compare_processors
from leap.errors import UsageError

TEXTS = [text for pair in PAIRS for text in pair[:2]]
# Another Python in which every vector comes out a little longer, and the first text leaves elsewhere.
OTHER = """
import runpy, sys
import numpy as np
save = np.savez
def other(output, **found):
    for name in found:
        if name.endswith("embeddings"):
            found[name] = found[name] * 1.5
        elif name.endswith("layers"):
            found[name][0] += 1
    save(output, **found)
np.savez = other
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_differences_are_counted(exported: Path) -> None:
    commands = {"here": [sys.executable], "same": [sys.executable], "other": [sys.executable, "-c", OTHER]}
    figures = compare_processors(str(exported), TEXTS, commands)
    assert figures["texts"] == len(TEXTS)
    for row in figures["processors"]:
        assert row["machine"]
        differ = row["name"] == "other"
        assert row["other_exit_layer"] == int(differ)
        assert row["other_embedding"] == differ * (len(TEXTS) - 1)
        assert (row["largest_difference"] > 0.01) == differ
        assert row["cosine_lowest"] == pytest.approx(1)
    assert [(row["name"], row["precision"]) for row in figures["processors"]] == [
        (name, precision) for name in ("same", "other") for precision in ("float32", "int8")
    ]
    for command, reason in (
        ([sys.executable, "-c", "import sys; sys.exit('no such processor')"], "no such processor"),
        (["./nowhere"], "No such file"),
    ):
        with pytest.raises(UsageError, match=rf"^--on: x: .* ended with: .*{reason}"):
            compare_processors(str(exported), TEXTS, {"x": command})


def test_wrong_arguments(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LEAP_DATA", str(write_data(tmp_path / "data")))
    python = shlex.quote(sys.executable)
    for given in (["x"], ["x="], [f"x={python}", f"x={python}"], [f"here={python}"]):
        assert main(["processors", "--model", str(exported), "--on", *given]) == 2
        assert "--on: give each processor once, as NAME=COMMAND" in capsys.readouterr().err
