"""Markdown tables from nested figures."""

import pytest

from eval.card.tables import cell, fastest, find, table


def test_rows_of_a_list() -> None:
    rows = [{"layer": 1, "score": {"p50": 0.12345}}, {"layer": 2, "score": {"p50": None}}]
    assert table(rows, ["layer", "ms=score.p50:.2f", "nothing"]) == (
        "| layer | ms |\n| --- | --- |\n| 1 | 0.12 |\n| 2 | - |"
    )


def test_rows_of_a_mapping_and_one_row() -> None:
    figures = {"a": {"calls": 1200}, "b": {"other": 1}, "c": 3}
    assert table(figures, ["name", "calls"]) == "|  | calls |\n| --- | --- |\n| a | 1,200 |"
    assert table(figures, ["c"]) == "| c |\n| --- |\n| 3 |"


@pytest.mark.parametrize("rows", [None, [], [{}], {"a": {}}])
def test_without_values_there_is_no_table(rows: object) -> None:
    assert table(rows, ["name", "x"]) == ""


def test_paths() -> None:
    content = {"a": [{"b": 1}, {"b": 2}], "n@1": 3}
    paths = ("a.0.b", "a.-1.b", "n@1", "a.7.b", "a.-7.b", "a.x", "a.0.b.c")
    assert [find(content, path) for path in paths] == [1, 2, 3, None, None, None, None]
    assert find(content, "") is content


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (None, "", "-"),
        (1234567, "", "1,234,567"),
        (0.123456, "", "0.1235"),
        (0.5, ".2f", "0.50"),
        ([0.5, None], ".1f", "0.5, -"),
        ([], "", "-"),
        ({"a": 1, "b": None}, "", "a 1"),
        ("a|b", "", "a\\|b"),
        (True, "", "True"),
        (-4e-8, ".4f", "0.0000"),
        (-4e-5, "+.4f", "0.0000"),
        (-0.5, ".4f", "-0.5000"),
    ],
)
def test_cells(value: object, form: str, text: str) -> None:
    assert cell(value, form) == text


def test_fastest_is_of_one_text_in_each_precision() -> None:
    peers = {"a": {"model": "teacher", "precision": "float32"}, "b": {"model": "leap", "precision": "int8"}}
    row = {"texts": "s", "batch_size": 1, "peer": "a", "variant": "full depth", "p50_ms": 2.0}
    rows = [row, row | {"p50_ms": 1.5}, row | {"batch_size": 8, "p50_ms": 0.1}, row | {"peer": "b"}]
    peers["c"] = {"model": "teacher", "precision": "lookup"}
    rows = [row | {"peer": "b"}, row | {"peer": "c"}, *rows]
    assert fastest({"peers": peers, "rows": rows}) == [
        {"precision": "float32", "texts": "s", "teacher": 1.5, "full": None, "exits": None},
        {"precision": "int8", "texts": "s", "teacher": None, "full": 2.0, "exits": None},
    ]
