"""The README is short, and its figures are those of the table that `python -m eval card` puts there."""

import re
from pathlib import Path

from eval.card.card import BEGIN, END


def test_it_is_short(repo_root: Path) -> None:
    assert len((repo_root / "README.md").read_text(encoding="utf-8").splitlines()) <= 180


def test_figures_stand_in_the_rendered_table_alone(repo_root: Path) -> None:
    text = (repo_root / "README.md").read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    table, _, tail = rest.partition(END)
    assert re.search(r"\b0\.\d{4}\b", table)
    for words in (head, tail):
        assert not re.findall(r"\b\d\.\d{3,}\b|times as fast", words)
