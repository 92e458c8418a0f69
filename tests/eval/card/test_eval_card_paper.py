"""The card's front, seeds and paper's protocol: words follow results, sections go with their files."""

from pathlib import Path

import pytest
from card_toys import edit, rendered, write_evidence, write_optional, write_required

from eval.studies.paper_published import DIFFERENCES
from leap.errors import UsageError

SECTIONS = {
    "front.json": "Along the whole front",
    "seeds.json": "## Over seeds",
    "paper-l12.json": "## The paper's own protocol",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    results = write_required(tmp_path)
    write_optional(results)
    write_evidence(results)
    return results


def test_each_goes_with_its_file(folder: Path) -> None:
    for name, words in SECTIONS.items():
        before = rendered(folder)
        assert words in before
        assert "\n\n\n" not in before
        (folder / name).unlink()
        assert words not in rendered(folder)


def test_front(folder: Path) -> None:
    text = rendered(folder)
    above = "+0.0021 (+0.0011 to +0.0031) at 2.50"
    assert f"| STS Benchmark, Spearman | {above} | {above} | {above} |" in text
    assert "3 or more rules" in text
    assert "is below 0): SciFact, nDCG@10, teacher's documents (the line 1, the coin 1)." in text
    assert "](results/front.png)" in text
    edit(folder / "front.json", lambda content: content["figures"]["sets"].pop())
    assert "No rule is below the line or the coin by more than this noise." in rendered(folder)


def test_seeds(folder: Path) -> None:
    text = rendered(folder)
    assert "| with exits | 0.7801 ± 0.0020 |" in text
    assert "| exits less cuts of the same mean depth | -0.0012 ± 0.0020 |" in text
    assert "900 steps of `train_leap.py --beta 1.5`, 3\nseeds" in text


def test_the_papers_protocol(folder: Path) -> None:
    text = rendered(folder)
    assert "| LEAP | 0.8200 | 0.8077 | 1.50 | 8.00 | 91.2% |" in text
    assert "| LEAP, the paper's | - | 0.760 ± 0.006 | 1.80 | 6.7 | 91.9% |" in text
    assert "| 7 | 0.900, 0.0% | 0.215, 0.0% | 0.900, 91.2% | 0.963, 91.9% |" in text
    assert "no sentence leaves early after no L_exit." in text
    assert all(f"- {words}" in text for words in DIFFERENCES)


def test_another_teacher_is_refused(folder: Path) -> None:
    def change(content: dict) -> None:
        content["models"]["teacher"]["sha256"] = "another"

    edit(folder / "paper-l12.json", change)
    with pytest.raises(UsageError, match=r"paper-l12\.json and .* are of different weights"):
        rendered(folder)
