"""What the reader refuses: one line that names file and row."""

from pathlib import Path

import pytest
from text_files import FORMATS, read, write, write_rows

from leap.errors import UsageError
from leap.text.formats import PEEK
from leap.text.reading import TextSource, iterate_texts


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        *((f"t{end}", b"", "t.* is empty") for end in (".txt", ".csv", ".json", ".jsonl", ".parquet")),
        ("t.txt.gz", b"", "is empty"),
        ("t.txt", "caf\xe9\nna\xefve\n".encode("latin1"), "line 1: not UTF-8: convert"),
        ("t.csv", b"text\ngood\n\xe9t\xe9\n", "line 3: not UTF-8"),
        ("t.jsonl", b'{"text": "good"}\n{"text": "\xe9"}\n', "line 2: not UTF-8"),
        ("t.json", b'[{"text": "\xe9"}]\n', "not UTF-8"),
        *((f"t{e}", '{"text": "a"}\n'.encode("utf-16"), "UTF-16") for e in (".txt", ".csv", ".json")),
        ("t.txt", "a text\n".encode("utf-16-le"), "line 1: a NUL character"),
        ("t.jsonl", '{"text": "a"}\n{"te', "line 2: not JSON"),
        ("t.jsonl", '{"text": "a"}\n\n[1]\n', "line 3: a list, not an object"),
        ("t.jsonl", '{"text": "a"}\n{"title": "b"}\n', "line 2: no column 'text'"),
        ("t.jsonl", '{"text": "a"}\n{"text": 3}\n', "line 2: column 'text' holds a number, no text"),
        ("t.jsonl", '{"text": "a"}\n{"text": ["b"]}\n', "line 2: column 'text' holds a list, no text"),
        ("t.jsonl", '{"text": "\\ud800"}\n', "line 1: column 'text' holds half a surrogate pair"),
        ("t.jsonl", '{"text": ' + "[" * 100_000, "line 1: JSON nested too deeply"),
        ("t.json", '[{"text": "a"},\n {"text": "b"}\n', "breaks off"),
        ("t.json", '[{"text": "a"},\n {"text": "b', "line 2: it breaks off|breaks off"),
        ("t.json", '[{"text": "a"}] 7', "line 1 has '7'"),
        ("t.json", '[{"text": "a"} {"text": "b"}]', "no object"),
        ("t.json", '[{"text": "a"},]', "out of place"),
        ("t.json", '[{"text" "a"}, {"text": "a much longer text than can be cut off"}]', "not JSON"),
        ("t.json", '["a", "b"]', "no object"),
        ("t.json", '{"data": [{"text": "a"}]}', "no column 'text'; it has 'data'"),
        ("t.csv", "text,n\na, b,1\n", "line 2: 3 fields under a header of 2"),
        ("t.csv", 'text,n\n"a\nb",1\n"c"\n', "line 4: 1 fields under a header of 2"),
        ("t.csv", 'text\n"a" b\n', "line 2: not CSV"),
        ("t.csv", 'text\n"a\nb\n', "not CSV .unexpected end of data"),
        ("t.csv", "text,text\na,b\n", "two columns 'text'"),
        ("t.csv", "a;text\n1;b\n", "no column 'text'; it has 'a;text'"),
        ("t.parquet", b"PAR1 no such thing PAR1", "damaged or breaks off"),
        ("t.parquet", b"P", "damaged or breaks off"),
        ("t.parquet.gz", b"no parquet", "damaged or breaks off"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_line(tmp_path: Path, name: str, content: bytes | str, said: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(UsageError, match=said) as error:
        for _ in iterate_texts(TextSource(str(path), argument="--input")):
            pass
    message = str(error.value)
    assert message.startswith(f"--input: '{path}'")
    assert "\n" not in message


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_cut_anywhere_is_whole_rows_or_one_line(tmp_path: Path, name: str) -> None:
    rows = [{"id": f"{i}", "text": f"text {i}, and 'more'\nof it"} for i in range(4)]
    whole = write_rows(tmp_path / name, rows).read_bytes()
    expected = read(tmp_path / name, "id", "text")
    for end in range(1, len(whole), max(1, len(whole) // 60)):
        (tmp_path / name).write_bytes(whole[:end])
        try:
            found = read(tmp_path / name, "id", "text")
        except UsageError as error:
            assert "\n" not in str(error)
        else:  # what a cut between two lines leaves, or between two fields that are not in quotes
            assert name in ("t.csv", "t.jsonl")
            assert found == expected[: len(found)] or found[-1][1] == ""


@pytest.mark.parametrize("value", ["nan", "inf", "-Infinity", "1_0", "", "high", "1,5", None, True, [1]])
def test_a_number_is_finite(tmp_path: Path, value: object) -> None:
    path = write_rows(tmp_path / "t.jsonl", [{"score": value}])
    (row,) = TextSource(str(path)).rows(("score",))
    with pytest.raises(UsageError, match="line 1: column 'score' needs a finite number"):
        row.number_of("score")


def test_a_row_without_an_id_is_named(tmp_path: Path) -> None:
    for value in (None, "", True, [], {"$oid": "a"}):
        path = write_rows(tmp_path / "t.jsonl", [{"id": "a"}, {"id": value}])
        with pytest.raises(UsageError, match=r"line 2: column 'id' holds (no id|a .*, no text)"):
            read(path, "id")


def test_columns_that_a_json_file_never_has_are_missed_at_once(tmp_path: Path) -> None:
    rows = [{"text": "a"}] * PEEK + [{"text": "b", "title": "late"}]
    path = write_rows(tmp_path / "t.jsonl", rows)
    with pytest.raises(UsageError, match="no column 'title'; it has 'text'"):
        next(TextSource(str(path)).rows(("text", "title")))
    source = TextSource(str(path)).rows(("text",), ("title",))
    assert [row.values.get("title") for row in source][-2:] == [None, "late"]


def test_a_cache_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", "/somewhere")

    monkeypatch.setattr("leap.text.hub.load_dataset", refuse)
    with pytest.raises(UsageError, match=r"its cache '.*' cannot be written .*: set HF_HOME"):
        list(TextSource("owner/texts").rows(("text",)))
