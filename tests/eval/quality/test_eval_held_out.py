"""Texts that training did not draw."""

import json
from pathlib import Path

import numpy as np
import pytest

from eval.__main__ import main
from eval.quality.held_out import held_out_texts
from leap.errors import UsageError
from leap.text.tokens import draw_texts


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The log of a run that drew 30 of 50 texts, of which 10 more are of a source left out."""
    rows = [{"text": f"text {i}", "source": "b" if i % 6 == 0 else "a"} for i in range(60)]
    data = tmp_path / "texts.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    run = {"data": [str(data)], "exclude_sources": ["b"], "texts": 30, "seed": 3}
    path = tmp_path / "train-a.json"
    path.write_text(json.dumps({"run": run}))
    return path


def test_what_is_left_is_all_that_was_not_drawn(log: Path) -> None:
    pool = [f"text {i}" for i in range(60) if i % 6]
    drawn = {pool[i] for i in draw_texts(pool, 30, 3)}
    left = held_out_texts([log], 20)
    assert len(left) == 20
    assert set(left) == set(pool) - drawn


def test_a_second_run_takes_its_texts_away(log: Path, tmp_path: Path) -> None:
    run = json.loads(log.read_text())["run"] | {"seed": 4}
    second = tmp_path / "train-b.json"
    second.write_text(json.dumps({"run": run}))
    both, first = held_out_texts([log, second], 5), held_out_texts([log], 20)
    assert set(both) < set(first)
    pool = [f"text {i}" for i in range(60) if i % 6]
    assert not set(both) & {pool[i] for i in draw_texts(pool, 30, 4)}


def test_the_command_writes_a_text_a_line(log: Path, tmp_path: Path) -> None:
    file = tmp_path / "out" / "held-out.txt"
    assert main(["held_out", "--logs", str(log), "--count", "7", "--output", str(file)]) == 0
    assert len(set(file.read_text().splitlines())) == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [({"texts": 51}, "drew 51 texts"), ({"data": ["./none.jsonl"]}, "not here"), (None, "no log")],
)
def test_errors_name_the_argument(log: Path, change: dict[str, object] | None, message: str) -> None:
    run = json.loads(log.read_text())["run"]
    log.write_text(json.dumps({} if change is None else {"run": run | change}))
    with pytest.raises(UsageError, match=f"--logs: .*{message}"):
        held_out_texts([log], 5)


def test_too_few_left(log: Path) -> None:
    with pytest.raises(UsageError, match="--count: training left 20"):
        held_out_texts([log], 21)


def test_draw_of_all() -> None:
    assert np.array_equal(draw_texts(range(4), None, 0), [0, 1, 2, 3])
