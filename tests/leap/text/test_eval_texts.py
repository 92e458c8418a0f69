"""Texts from a file or from pairs, and one line for what is neither."""

import gzip
import json
from pathlib import Path

import pytest
import tiny_data

from leap.errors import UsageError
from leap.text.samples import load_texts_or_pairs, texts_of

TEXTS = ["a cat sat", "the dog ran", "a fish"]


def test_the_same_texts_in_every_form(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (tmp_path / "t.txt").write_text("\n".join(TEXTS) + "\n")
    (tmp_path / "t.jsonl").write_text(lines)
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    found = [load_texts_or_pairs(str(tmp_path / name)) for name in ("t.txt", "t.jsonl", "t.jsonl.gz")]
    assert [texts_of(data) for data in found] == [TEXTS] * 3
    assert len({data.sha256 for data in found}) == 1
    assert found[0].name == "t.txt"
    assert texts_of(load_texts_or_pairs(str(tmp_path / "t.jsonl"), limit=2)) == TEXTS[:2]


def test_pairs_give_all_first_sentences_and_then_all_second_ones(tmp_path: Path) -> None:
    data = load_texts_or_pairs(str(tiny_data.write_pairs(tmp_path / "pairs.csv")))
    assert texts_of(data) == [pair[0] for pair in tiny_data.PAIRS] + [pair[1] for pair in tiny_data.PAIRS]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("nowhere.txt", None, "holds no .txt, .csv"),
        ("one.txt", "a cat\n", "holds 1 texts: give at least 2"),
        ("other.jsonl", '{"title": "a"}\n{"title": "b"}\n', "no column 'text'; it has 'title'"),
        ("broken.jsonl", '{"text": "a"\n', "line 1: not JSON"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, content: str | None, complaint: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=rf"^--data: .*{complaint}"):
        load_texts_or_pairs(str(tmp_path / name))
