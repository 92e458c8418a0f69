"""Pairs to fine-tune on: both kinds, and one line for what would be lost of them."""

import gzip
import json
from pathlib import Path

import pytest
import tiny_data

from leap.errors import UsageError
from leap.text.pairs import load_pairs


def test_pairs_of_both_kinds(tmp_path: Path) -> None:
    scored, together = tmp_path / "scored.csv.gz", tmp_path / "together.jsonl"
    lines = ["sentence1,sentence2,score", *(f"{a},{b},{score}" for a, b, score in tiny_data.PAIRS)]
    scored.write_bytes(gzip.compress("\n".join(lines).encode()))
    rows = [{"anchor": a, "positive": b, "id": 7} for a, b, _ in tiny_data.PAIRS]
    together.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with_scores, without = load_pairs(scored), load_pairs(together)
    assert (len(with_scores), len(without)) == (6, 6)
    assert with_scores.scores[:2].tolist() == [4.8, 3.0]
    assert without.scores is None
    assert without.second[0] == with_scores.second[0] == "the cat sat on a mat"
    train, held_out = with_scores.split(0.25, seed=1)
    assert (len(train), len(held_out)) == (4, 2)
    assert train.sha256 != with_scores.sha256


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "anchor,positive\nx,\ny,z\n", "a.csv', line 2: column 'positive' holds no text"),
        ("a.csv", "sentence1,sentence2,score\nx,y,high\n", "line 2: column 'score' needs a finite number"),
        ("a.csv", "sentence1,sentence2,score\nx,y,inf\n", "line 2: column 'score' needs a finite number"),
        ("a.csv", "sentence1,sentence2\nx,y\n", "line 2: no column 'score'"),
        ("a.csv", "left,right\nx,y\n", "line 2: no column 'anchor': give sentence1"),
        ("a.csv", "anchor,positive\nx,y, z\n", "line 2: 3 fields under a header of 2"),
        ("a.csv", "anchor,positive,score\nx,y,1\n", "line 2: column 'score' is not used beside anchor"),
        ("a.csv", "anchor,positive,negative\nx,y,z\n", "line 2: column 'negative' is not used"),
        (
            "a.jsonl",
            '{"anchor": "x", "positive": "y"}\n{"anchor": "x", "positive": "y", "negative_2": ""}',
            "line 2: column 'negative_2' is not used",
        ),
        ("a.csv", "anchor,positive\nx,y\n", "holds 1 pairs"),
        ("a.jsonl", '{"anchor": "x", "positive": "y"}\n{"anch', "a.jsonl', line 2: not JSON"),
        ("a.tsv", "x\ty\n", "its name must end in .txt, .csv"),
    ],
)
def test_one_line_for_what_is_no_pair(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=said):
        load_pairs(tmp_path / name)
