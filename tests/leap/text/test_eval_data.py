"""Evaluation sets are found by path, by short name under LEAP_DATA and on the Hub, and wrong ones refused."""

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import tiny_data

from leap.errors import UsageError
from leap.text.sets import load_retrieval, load_sts


@pytest.fixture
def no_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEAP_DATA", raising=False)


def test_csv_by_path(tmp_path: Path) -> None:
    data = load_sts(str(tiny_data.write_pairs(tmp_path / "pairs.csv")))
    assert (data.name, len(data.first), data.second[2], data.scores[5]) == (
        "pairs",
        6,
        "a woman plays piano",
        0.2,
    )


@pytest.mark.parametrize("place", ["stsb", "sts/stsb"])
def test_short_name_under_leap_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    tiny_data.write_pairs(tmp_path / place / "validation.csv")
    monkeypatch.setenv("LEAP_DATA", str(tmp_path))
    assert load_sts("stsb", "validation").name == "stsb/validation"


def test_the_hubs_pairs_have_the_checksum_of_the_local_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_root: None
) -> None:
    rows = {
        column: [pair[at] for pair in tiny_data.PAIRS] for at, column in enumerate(("sentence1", "sentence2"))
    }
    rows["score"] = [pair[2] for pair in tiny_data.PAIRS]
    asked = []

    def hub(*args: Any, **options: Any) -> datasets.Dataset:
        asked.append((*args, options))
        return datasets.Dataset.from_dict(rows)

    monkeypatch.setattr("leap.text.hub.load_dataset", hub)
    remote = load_sts("stsb", "test")
    local = load_sts(str(tiny_data.write_pairs(tmp_path / "pairs.csv")))
    assert asked == [("mteb/stsbenchmark-sts", None, {"split": "test", "streaming": False, "revision": None})]
    assert remote.sha256 == local.sha256


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("sentence1,score\na,1\nb,2\n", "bad.csv', line 1: no column 'sentence2'; it has 'sentence1'"),
        (
            "sentence1,sentence2,score\na,b,1\nb,c,high\n",
            "line 3: column 'score' needs a .* number, got 'high'",
        ),
        ("sentence1,sentence2,score\na,b,1\n", "holds 1 pairs"),
        ("sentence1,sentence2,score\na,b,1\nb,c,nan\n", "line 3: .* finite number, got 'nan'"),
        ("sentence1,sentence2,score\na,b,1\nb, ,2\n", "line 3: column 'sentence2' holds no text"),
        ("sentence1,sentence2,score\na,b,1\nb,c, d,2\n", "line 3: 4 fields under a header of 3"),
        ("", "bad.csv': it is empty"),
    ],
)
def test_a_wrong_csv_is_refused_in_one_line(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)
    with pytest.raises(UsageError, match=complaint) as error:
        load_sts(str(path))
    assert "\n" not in str(error.value)


def test_a_missing_csv_a_missing_root_and_a_missing_hub_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_root: None
) -> None:
    with pytest.raises(UsageError, match=r"^--data: there is no file '.*none.csv': check the path"):
        load_sts(str(tmp_path / "none.csv"))
    with pytest.raises(UsageError, match=r"^--data: cannot read 'mteb/stsbenchmark-sts' from the Hub"):
        load_sts("stsb")  # the tests are offline
    monkeypatch.setenv("LEAP_DATA", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="LEAP_DATA: there is no folder"):
        load_sts("stsb")


def test_beir_folder(tmp_path: Path) -> None:
    data = load_retrieval(str(tiny_data.write_beir(tmp_path / "tiny")))
    assert data.name == "tiny/test"
    assert data.documents == {
        "d1": "cat a cat sat on the mat",
        "d2": "a dog ran in the rain",  # no space before it, where there is no title
        "q1": "the man plays guitar",
        "d3": "music",
    }
    assert list(data.queries) == ["q1", "q2"]  # what nobody judged is not asked
    assert data.qrels == {"q1": {"d2": 1}, "q2": {"d1": 2, "d3": 1}}


def test_beir_short_name_and_plain_jsonl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_data.write_beir(tmp_path / "beir" / "tiny")
    monkeypatch.setenv("LEAP_DATA", str(tmp_path))
    packed = load_retrieval("tiny")
    for name in ("corpus", "queries"):
        path = folder / f"{name}.jsonl.gz"
        (folder / f"{name}.jsonl").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert load_retrieval("tiny") == packed


def test_beir_from_the_hub_has_the_checksum_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_root: None
) -> None:
    """The Hub's form: `corpus` and `queries` as configs of one repository, judgements in a second one."""
    repository, judgements = tmp_path / "hub" / "scifact", tmp_path / "hub" / "scifact-qrels"
    for name, rows in (("corpus", tiny_data.CORPUS), ("queries", tiny_data.QUERIES)):
        (repository / name).mkdir(parents=True)
        (repository / name / f"{name}-0.jsonl").write_text("\n".join(map(json.dumps, rows)))
    configs = "\n".join(
        f"- config_name: {name}\n  data_files:\n  - split: {name}\n    path: {name}/*"
        for name in ("corpus", "queries")
    )
    (repository / "README.md").write_text(f"---\nconfigs:\n{configs}\n---\n")
    judgements.mkdir()
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in tiny_data.QRELS)]
    (judgements / "test.tsv").write_text("\n".join(lines))

    def hub(name: str, *args: Any, **options: Any) -> datasets.Dataset:
        local = str(tmp_path / "hub" / name.removeprefix("BeIR/"))
        return datasets.load_dataset(local, *args, cache_dir=str(tmp_path / "cache"), **options)

    monkeypatch.setattr("leap.text.hub.load_dataset", hub)
    remote = load_retrieval("scifact")
    assert remote.name == "scifact/test"
    assert remote.sha256 == load_retrieval(str(tiny_data.write_beir(tmp_path / "tiny"))).sha256


def test_a_folder_that_is_not_beirs_is_refused(tmp_path: Path) -> None:
    folder = tiny_data.write_beir(tmp_path / "tiny")
    with pytest.raises(UsageError, match=r"^--split: there is no file .*dev\.tsv"):
        load_retrieval(str(folder), "dev")
    (folder / "corpus.jsonl.gz").rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"has no corpus\.jsonl"):
        load_retrieval(str(folder))
    (tmp_path / "elsewhere").rename(folder / "corpus.jsonl.gz")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nnobody\td1\t1\n")
    with pytest.raises(UsageError, match="judges query 'nobody' but has no text"):
        load_retrieval(str(folder))
    (folder / "qrels" / "test.tsv").write_text("query-id\tdocument\tscore\nq1\td1\t1\n")
    with pytest.raises(UsageError, match=r"test.tsv', line 1: no column 'corpus-id'; it has 'query-id'"):
        load_retrieval(str(folder))


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("corpus", '{"_id": "d1", "text": "again"}', r"corpus.jsonl', line 5: a second _id 'd1'"),
        ("queries", '{"_id": "q1", "text": "again"}', r"queries.jsonl', line 4: a second _id 'q1'"),
        ("corpus", '{"_id": null, "text": "x"}', r"line 5: column '_id' holds no id"),
        ("corpus", '{"_id": "d9", "text": 5}', r"line 5: column 'text' holds a number, no text"),
        ("corpus", '{"_id": "d9", "te', r"line 5: not JSON"),
        ("qrels/test", "q1\td2\t0.5", r"test.tsv', line 5: column 'score' needs a whole number, got 0.5"),
        ("qrels/test", "q1\td2\tnan", r"line 5: column 'score' needs a finite number"),
        ("qrels/test", "q1\td2\t0", r"line 5: document 'd2' is judged a second time, otherwise"),
        ("qrels/test", "q1\td2", r"line 5: 2 fields under a header of 3"),
    ],
)
def test_what_beir_files_would_lose_is_named(tmp_path: Path, name: str, line: str, said: str) -> None:
    folder = tiny_data.write_beir(tmp_path / "tiny")
    for packed in list(folder.glob("*.gz")):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    (path,) = folder.glob(f"{name}.*")
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UsageError, match=said) as error:
        load_retrieval(str(folder))
    assert "\n" not in str(error.value)


def test_beir_nulls_and_whole_gains(tmp_path: Path) -> None:
    folder = tiny_data.write_beir(tmp_path / "tiny")
    documents = [*tiny_data.CORPUS, {"_id": "007", "title": "a title", "text": None}, {"_id": 7, "text": ""}]
    lines = "".join(json.dumps(row) + "\n" for row in documents)
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\t007\t1.0\nq1\t7\t2\n")
    data = load_retrieval(str(folder))
    assert (data.documents["007"], data.documents["7"]) == ("a title", "")
    assert data.qrels == {"q1": {"007": 1, "7": 2}}
    lines = json.dumps({"_id": "q1", "text": None})
    (folder / "queries.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    with pytest.raises(UsageError, match="judges query 'q1' but has no text"):
        load_retrieval(str(folder))
