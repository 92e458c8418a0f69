"""The one reader: ids and texts come back as written; what it refuses is in test_reading_refused.py."""

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from text_files import FORMATS, read, write, write_rows

from leap.errors import UsageError
from leap.text.formats import PEEK
from leap.text.json_array import CHUNK
from leap.text.reading import Progress, TextSource, iterate_texts

ODD_IDS = [
    "007", "7", "1e5", "100000", "1.0", "None", "NA", "null", "nan", "NaN", "true", "2024-01-01", " 7 ",
    "9223372036854775808", "9223372036854775809", "-0", "1_000", "é", "e\u0301", "\u2028", "a,b", 'a"b',
]  # fmt: skip
ODD_TEXTS = ["None", "NA", "null", "nan", "", " ", "#N/A", "1", "\u2028one\u2029two\x85three", "-", "inf"]
# Text that any of the formats can hold: no NUL, no halves of surrogate pairs.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
GENTLE = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("name", FORMATS)
def test_ids_and_texts_are_kept_byte_for_byte(tmp_path: Path, name: str) -> None:
    ids = write_rows(tmp_path / "ids" / name, [{"id": key, "text": f"text {key}"} for key in ODD_IDS])
    assert read(ids, "id", "text") == [(key, f"text {key}") for key in ODD_IDS]
    texts = write_rows(tmp_path / "texts" / name, [{"id": "a", "text": text} for text in ODD_TEXTS])
    assert read(texts, "text") == [(text,) for text in ODD_TEXTS]


@pytest.mark.parametrize("name", ["t.csv", "t.json", "t.jsonl", "t.parquet"])
def test_any_text_comes_back(tmp_path: Path, name: str) -> None:
    @GENTLE
    @given(st.lists(st.tuples(TEXT.filter(bool), TEXT), min_size=1, max_size=8))
    def check(rows: list[tuple[str, str]]) -> None:
        path = write_rows(tmp_path / name, [{"id": key, "text": text} for key, text in rows])
        assert read(path, "id", "text") == rows

    check()


@GENTLE
@given(st.lists(TEXT, min_size=1, max_size=8))
def test_any_lines_come_back(tmp_path: Path, texts: list[str]) -> None:
    lines = [text.replace("\n", "").rstrip("\r") for text in texts]
    for end in ("\n", "\r\n"):
        path = write(tmp_path / "t.txt", "".join(line + end for line in lines))
        assert [text for (text,) in read(path, "text")] == lines


def test_numbers_in_json_keep_their_spelling(tmp_path: Path) -> None:
    spelled = [
        "7",
        "1e5",
        "100000",
        "1.0",
        "9223372036854775808",
        "-0",
        "1E5",
        "123456789012345678901234567890",
    ]
    lines = [f'{{"id": {number}, "text": "t"}}' for number in spelled]
    for path in (
        write(tmp_path / "t.jsonl", "\n".join(lines)),
        write(tmp_path / "t.json", f"[{','.join(lines)}]"),
    ):
        assert read(path, "id") == [(number,) for number in spelled]
    big = pa.table({"id": pa.array([2**64 - 1, 2**63], pa.uint64()), "text": ["a", "b"]})
    pq.write_table(big, tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet", "id") == [("18446744073709551615",), ("9223372036854775808",)]


@pytest.mark.parametrize(
    "rows",
    [
        [{"n": None}] * (PEEK + 1) + [{"n": "a string"}],  # null for long, then a string
        [{"n": {"a": 1}}] * (PEEK + 1) + [{"n": {"a": 1, "late": [1]}}],  # a nested key that appears late
        [{"n": 1}] * (PEEK + 1) + [{"n": "one"}],
        [{"n": 1}, {}, {"more": 1}],
    ],
    ids=["null", "nested", "number", "lacking"],
)
@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_a_column_nobody_asked_for_ends_nothing(
    tmp_path: Path, name: str, rows: list[dict[str, Any]]
) -> None:
    made = [{"id": f"{i}", "text": f"t{i}", **row} for i, row in enumerate(rows)]
    assert len(read(write_rows(tmp_path / name, made), "id", "text")) == len(rows)


def test_ids_may_be_numeric_for_long_and_then_not(tmp_path: Path) -> None:
    ids = [str(i) for i in range(10_001)] + ["ten"]
    path = write_rows(tmp_path / "t.csv", [{"id": key, "text": "t"} for key in ids])
    assert [key for (key,) in read(path, "id")] == ids


def test_long_fields_marks_blank_lines_and_missing_last_ends(tmp_path: Path) -> None:
    long = "word " * 100_000
    assert read(write(tmp_path / "a.csv", f"\ufefftext\n{long}\n\nlast"), "text") == [(long,), ("last",)]
    line = json.dumps({"text": long})
    assert read(write(tmp_path / "a.jsonl", f"\ufeff{line}\n\n{line}\n \n"), "text") == [(long,)] * 2
    assert read(write(tmp_path / "a.txt", "\ufeffone\n\ntwo"), "text") == [("one",), ("",), ("two",)]
    rows = [{"text": long * 3}, {"text": "b"}]
    assert len(long) * 3 > CHUNK
    assert read(write(tmp_path / "a.json", "\ufeff" + json.dumps(rows, indent=1)), "text") == [
        (row["text"],) for row in rows
    ]
    assert read(write(tmp_path / "b.json", "[]"), "text") == []


def test_an_empty_parquet_part_is_no_fault(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b"]})
    pq.write_table(table, tmp_path / "0.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "1.parquet")
    pq.write_table(table, tmp_path / "2.parquet")
    assert read(tmp_path, "text") == [("a",), ("b",)] * 2


def test_parquet_types(tmp_path: Path) -> None:
    columns = {
        "dictionary": pa.array(["a", "a"]).dictionary_encode(),
        "large": pa.array(["b", None], pa.large_string()),
        "float": [1.0, 2.0],
        "time": pa.array([0, 1], pa.timestamp("us")),
        "a.b": ["c", "d"],
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet", "dictionary", "large", "a.b") == [("a", "b", "c"), ("a", "", "d")]
    rows = list(TextSource(str(tmp_path / "t.parquet")).rows(("float", "time")))
    for column in ("float", "time"):
        with pytest.raises(UsageError, match=rf"row 1: column '{column}' holds a (number|datetime), no text"):
            rows[0].id(column)
    assert rows[1].number_of("float") == 2.0


def test_folders_sub_folders_globs_and_brackets(tmp_path: Path) -> None:
    for place in (
        "d[1]/a.txt",
        "d[1]/sub/b.txt",
        "d1/c.txt",
        "d[1]/.hidden/x.txt",
        "d[1]/.y.txt",
        "e/[x].txt",
    ):
        write(tmp_path / place, place)

    def found(name: str) -> list[str]:
        return [str(Path(file).relative_to(tmp_path)) for file in TextSource(str(tmp_path / name)).files()]

    assert found("d[1]") == ["d[1]/a.txt", "d[1]/sub/b.txt"]
    assert found("d[1]/*.txt") == ["d[1]/a.txt"]
    assert found("d[1]/**/*.txt") == ["d[1]/a.txt", "d[1]/sub/b.txt"]
    assert found("d[12]/*.txt") == ["d1/c.txt"]
    assert found("d[1]/a.txt") == ["d[1]/a.txt"]
    assert found("e/[x].txt") == ["e/[x].txt"]
    assert found("*/*.txt") == ["d1/c.txt", "d[1]/a.txt", "e/[x].txt"]
    assert found("*") == ["d1/c.txt", "d[1]/a.txt", "d[1]/sub/b.txt", "e/[x].txt"]
    uri = (tmp_path / "e").as_uri()
    assert read(uri, "text") == read(tmp_path / "e", "text") == [("e/[x].txt",)]


def test_what_lies_beside_the_data(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [{"text": "a"}])
    write(tmp_path / "README.md", "about it")
    with pytest.warns(UserWarning, match=r"--data: not read: .*README.md"):
        assert read(tmp_path, "text") == [("a",)]
    write(tmp_path / "stats.json", '{"rows": 1}')
    with pytest.raises(UsageError, match=r"several formats, such as '.*stats.json' and '.*a.jsonl': name"):
        read(tmp_path, "text")
    for missing in ("none.jsonl", "none/", "no*.txt"):
        with pytest.raises(UsageError, match=r"holds no .txt, .csv"):
            read(tmp_path / missing, "text")
    with pytest.raises(UsageError, match=r"holds no .txt, .csv"):
        read("none.jsonl", "text")  # is looked for here, not on the Hub


def test_sources_left_out_need_their_column(tmp_path: Path) -> None:
    rows = [{"text": "a", "source": "x"}, {"text": "b", "source": "y"}, {"text": "c", "source": None}]
    path = write_rows(tmp_path / "t.jsonl", rows)
    assert list(iterate_texts(TextSource(str(path), exclude=("x",)))) == [["b", "c"]]
    path = write_rows(tmp_path / "u.jsonl", [{"text": "a"}])
    with pytest.raises(UsageError, match="no column 'source'"):
        list(iterate_texts(TextSource(str(path), exclude=("x",))))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(name: str, rows: int) -> int:
        path = write_rows(
            tmp_path / str(rows) / name, [{"id": f"{i}", "text": "t" * 400} for i in range(rows)]
        )
        tracemalloc.start()
        for _ in TextSource(str(path)).rows(("id", "text")):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    for name, rows in {"t.csv": 2000, "t.jsonl": 2000, "t.json": 2000, "t.parquet": 10_000}.items():
        assert peak(name, 4 * rows) < 1.5 * peak(name, rows), name


@pytest.mark.parametrize("name", [*FORMATS, "t.txt"])
def test_progress_goes_from_none_to_all(tmp_path: Path, name: str) -> None:
    rows = [{"id": f"{i}", "text": f"text {i} " * 20} for i in range(20_000)]
    if name == "t.txt":
        write(tmp_path / name, "".join(row["text"] + "\n" for row in rows))
    else:
        write_rows(tmp_path / name, rows)
    progress, shares = Progress(), []
    for _ in TextSource(str(tmp_path / name)).rows(("text",), progress=progress):
        shares.append(progress.share)
    assert progress.rows == len(rows)
    assert shares == sorted(shares) and 0 < shares[0] < 1 and shares[-1] == pytest.approx(1)


def test_fingerprints_follow_files_and_every_option(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "t.jsonl", [{"text": "a"}])
    sources = [
        TextSource(str(path)),
        TextSource(str(path), text_columns=("other",)),
        TextSource(str(path), exclude=("text",)),
        TextSource(str(path), limit=1),
        TextSource(str(path), split="test"),
        TextSource(str(path), revision="abc"),
        TextSource("owner/texts"),
        TextSource("owner/texts", revision="abc"),
    ]
    prints = {json.dumps(source.fingerprint()) for source in sources}
    assert len(prints) == len(sources)
    same = TextSource(str(path), argument="--input").fingerprint()
    assert json.dumps(same) in prints
    os.utime(path, (0, 0))
    assert json.dumps(sources[0].fingerprint()) not in prints


def test_local_files_need_no_cache(tmp_path: Path, repo_root: Path) -> None:
    write_rows(tmp_path / "t.csv", [{"text": "a"}])
    code = "import sys; from leap.text.reading import *; print(list(iterate_texts(TextSource(sys.argv[1]))))"
    code += "; assert not {'datasets', 'torch', 'transformers'} & set(sys.modules)"
    (tmp_path / "home").write_text("a file, so nothing can be written below it")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "t.csv")],
        env=os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_CACHE": str(tmp_path / "home")},
        cwd=repo_root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "[['a']]"), done.stderr


def hub(rows: list[dict[str, Any]]) -> Callable[..., datasets.Dataset]:
    return lambda *args, **options: datasets.Dataset.from_list(rows)


def test_a_data_set_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"id": 2**40, "text": "a", "n": 1.5}, {"id": 7, "text": None, "n": None}]
    monkeypatch.setattr("leap.text.hub.load_dataset", hub(rows))
    source = TextSource("owner/texts", argument="--input")
    progress = Progress()
    found = [(row.id("id"), row.text("text")) for row in source.rows(("id", "text"), progress=progress)]
    assert found == [("1099511627776", "a"), ("7", "")]
    assert progress.rows == 2
    with pytest.raises(UsageError, match=r"^--input: 'owner/texts': no column 'body'; it has 'id', 'text'"):
        list(source.rows(("body",)))
    with pytest.raises(UsageError, match="'owner/texts', row 2: column 'text' holds no text"):
        [row.text("text", required=True) for row in source.rows(("text",))]
