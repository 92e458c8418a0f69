"""The mixed set: seven kinds of text, of which nothing that training may see, and the same every time."""

import gzip
import json
from pathlib import Path

import pytest

from eval.quality.mixed import COUNTS, LANGUAGES, held_out_texts, mixed_texts, train_lines
from eval.quality.text_sets import MIXED, mixed_set
from leap.errors import UsageError
from leap.text.holdout import held_out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data laid out as LEAP_DATA: lines with a word and a name of their own, and small retrieval sets."""
    root = tmp_path_factory.mktemp("data")
    (root / "train").mkdir()
    letters = "abcdefghijklmnopqrst"

    def word(number: int) -> str:
        return "w" + "".join(letters[int(digit)] for digit in f"{number:04d}")

    for part, kind in enumerate(("sentences", "passages")):
        for file in range(2):
            rows = range(4000 * part + 2000 * file, 4000 * part + 2000 * file + 2000)
            with gzip.open(root / "train" / f"{kind}-0{file}.jsonl.gz", "wt") as out:
                for row in rows:
                    text = f"{word(row)} was seen by {word(row).title()} Smith."
                    out.write(json.dumps({"text": text, "source": "made up"}) + "\n")
    for name in ("scifact", "cranfield", "cacm"):
        beir = root / "beir" / name
        (beir / "qrels").mkdir(parents=True)
        queries = [{"_id": str(i), "text": f"query {i} of {name}"} for i in range(20)]
        for file, rows in (("queries", queries), ("corpus", [{"_id": "d", "title": "", "text": "a"}])):
            with gzip.open(beir / f"{file}.jsonl.gz", "wt") as out:
                out.writelines(json.dumps(row) + "\n" for row in rows)
        lines = ["query-id\tcorpus-id\tscore", *(f"{i}\td\t1" for i in range(20))]
        (beir / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return root


def test_there_are_3000_texts_of_seven_kinds() -> None:
    assert sum(COUNTS.values()) == 3000
    assert len(COUNTS) == 7
    assert len(LANGUAGES.read_text(encoding="utf-8").splitlines()) == COUNTS["languages"]


def test_nothing_in_it_is_trained_on(folder: Path) -> None:
    found = mixed_texts(folder)
    assert list(found) == list(COUNTS)
    for kind in ("sentences", "passages", "words", "names"):
        assert found[kind], kind
        assert all(map(held_out, found[kind])), kind
    assert set(found["sentences"]) == set(filter(held_out, train_lines(folder, "sentences")))
    assert all(" " not in word and word.islower() for word in found["words"])
    assert all(name.endswith(" Smith") for name in found["names"])
    assert len(found["queries"]) == 60
    assert len(found["code"]) == COUNTS["code"]
    assert any("def " in block for block in found["code"])


def test_it_is_the_same_every_time_and_another_with_another_seed(folder: Path) -> None:
    counts = dict.fromkeys(COUNTS, 5)
    assert mixed_texts(folder, 0, counts) == mixed_texts(folder, 0, counts) != mixed_texts(folder, 1, counts)


def test_a_part_of_it_has_the_same_proportions(folder: Path) -> None:
    found = mixed_set(folder, limit=100)
    assert found.name == MIXED
    assert len(found.texts) == len(found.kinds)
    assert found.kinds.count("code") == 15
    assert found.sha256 == mixed_set(folder, limit=100).sha256 != mixed_set(folder, limit=200).sha256


def test_held_out_texts_are_drawn_from_all_files(folder: Path) -> None:
    found = held_out_texts(folder, 10_000)
    lines = [line for kind in ("sentences", "passages") for line in train_lines(folder, kind)]
    assert sorted(found) == sorted(filter(held_out, lines))
    assert len(held_out_texts(folder, 7)) == 7
    rest = held_out_texts(folder, 10_000, leave_out=set(found[:5]))
    assert sorted([*rest, *found[:5]]) == sorted(found)


def test_a_folder_without_training_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--data: .* has no train/sentences-\*\.jsonl\.gz"):
        mixed_texts(tmp_path)
