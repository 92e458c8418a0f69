"""Derived texts: what a file of them holds, and that it never replaces what it is derived from."""

import json
from collections import Counter
from pathlib import Path

import pytest

from leap.arguments import OptionsParser
from leap.errors import UsageError
from leap.text.derived import DeriveOptions, write
from leap.text.holdout import held_out

SENTENCES = [
    f"The {colour} {thing} of Anna Karenina was seen near Lake Constance in {year}."
    for colour in ("red", "blue", "green", "yellow")
    for thing in ("boat", "house", "letter", "garden", "window")
    for year in range(1900, 1910)
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "sentences.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in SENTENCES))
    return path


def derive(data: Path, output: Path) -> None:
    arguments = ["--data", str(data), "--output", str(output), "--short", "30", "--code", "20"]
    write(OptionsParser(DeriveOptions).parse(arguments))


def test_words_names_queries_and_code_without_what_is_held_out(data: Path, tmp_path: Path) -> None:
    derive(data, tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    counts = Counter(row["source"] for row in rows)
    assert set(counts) == {"words", "names", "queries", "python-stdlib"}
    assert counts["python-stdlib"] == 20
    assert max(counts[kind] for kind in ("words", "names", "queries")) <= 10
    texts = [row["text"] for row in rows]
    assert len(set(texts)) == len(texts)
    assert not any(held_out(text.lower()) for text in texts if text not in texts[-20:])
    first = (tmp_path / "out.jsonl").read_bytes()
    derive(data, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == first


def test_the_sentences_are_not_replaced(data: Path) -> None:
    before = data.read_bytes()
    with pytest.raises(UsageError, match=r"^--output: .* is among the input: give another place"):
        derive(data, data)
    assert data.read_bytes() == before
