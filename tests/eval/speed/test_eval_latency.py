"""`latency`: which texts are timed, and the figures of a row."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_data
import torch

from eval.__main__ import main
from eval.speed.latency import choose_texts, evaluate_latency
from leap.encode.encoder import Encoder, load_encoder
from leap.errors import UsageError
from modeling_leap import LeapModel

TEXTS = [text for pair in tiny_data.PAIRS for text in pair[:2]]


@pytest.fixture
def folder(tmp_path: Path, make_tiny_model: Callable[..., LeapModel]) -> Path:
    return tiny_data.save_tiny(tmp_path / "tiny", make_tiny_model(**tiny_data.RULE))


@pytest.fixture
def encoder(folder: Path) -> Encoder:
    return load_encoder(str(folder))


def test_texts_that_are_long_enough_are_taken_as_they_are(encoder: Encoder) -> None:
    texts = ["a cat sat on the mat", "a cat sat on", "a cat sat", "a cat sat on a mat in the rain"]
    # Of 8 tokens 6.4 are wanted, the two special ones included: five words or more.
    assert choose_texts(encoder, texts, 8, at_least=2, wanted=2) == ([texts[0], texts[3]], False)


def test_too_few_are_joined(encoder: Encoder) -> None:
    texts = ["a cat sat", "a dog", "the man ran", "a fish", "the sun"]
    found = choose_texts(encoder, texts, 8, at_least=2, wanted=5)
    assert found == (["a cat sat a dog", "the man ran a fish"], True)  # what is left over is too short
    with pytest.raises(UsageError, match=r"^--data: makes 2 texts of 8 tokens, a batch takes 3: give more"):
        choose_texts(encoder, texts, 8, at_least=3, wanted=3)


def test_rows_of_a_run(encoder: Encoder) -> None:
    figures = evaluate_latency(encoder, TEXTS, batch_sizes=[1, 4], lengths=[5, 16], rounds=4)
    assert [(row["batch_size"], row["tokens"]) for row in figures["rows"]] == [
        (1, 5),
        (4, 5),
        (1, 16),
        (4, 16),
    ]
    assert (figures["device"], figures["dtype"]) == ("cpu", "float32")
    assert figures["threads"] == torch.get_num_threads()
    assert figures["exit_threshold"] == tiny_data.RULE["exit_threshold"]
    one, four, long, _ = figures["rows"]
    assert (one["texts"], one["joined"], long["joined"]) == (4, False, True)
    assert 2 < four["mean_layers_run"] < 6
    for row in figures["rows"]:
        for name in ("full_depth", "exits", "all_leave"):
            assert 0 < row[name]["p50_ms"] <= row[name]["p95_ms"] <= row[name]["p99_ms"]
        full, exits, leave = (row[name]["p50_ms"] for name in ("full_depth", "exits", "all_leave"))
        assert row["speedup"] == pytest.approx(full / exits)
        assert row["speedup_all_leave"] == pytest.approx(full / leave)
        assert row["speedup_possible"] == pytest.approx(6 / row["mean_layers_run"])
        assert row["share_of_possible"] == pytest.approx(row["speedup"] / row["speedup_possible"])
        assert 0.8 * row["tokens"] <= row["mean_tokens"] <= row["tokens"]
    json.dumps(figures, allow_nan=False)


def test_a_threshold_of_each_layer(encoder: Encoder) -> None:
    thetas = [None, None, -0.99, None, None, None]
    figures = evaluate_latency(encoder, TEXTS, batch_sizes=[2], lengths=[5], rounds=1, exit_threshold=thetas)
    assert figures["exit_threshold"] == thetas
    assert figures["rows"][0]["mean_layers_run"] == 3


def test_a_model_that_leaps(make_tiny_model: Callable[..., LeapModel]) -> None:
    form = {"landing_layer": 5, "min_exit_layer": 1, "max_exit_layer": 1}
    encoder = Encoder("tiny", make_tiny_model(**form), tiny_data.tiny_tokenizer(), 40)
    figures = evaluate_latency(encoder, TEXTS, batch_sizes=[2], lengths=[5], rounds=1, exit_threshold=-1.0)
    assert figures | form == figures
    assert figures["rows"][0]["mean_layers_run"] == 3
    assert figures["rows"][0]["speedup_possible"] == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"exit_threshold": None}, r"^--exit_threshold: none lets no text leave early"),
        ({"exit_threshold": [0.5] + [None] * 5}, r"^--exit_threshold: 0\.5, none.* lets no text leave"),
        ({"exit_threshold": 2.0}, r"^--exit_threshold must be"),
        ({"lengths": [5, 41]}, r"^--lengths: must be in \[3, 40\] for this model, got 41"),
        ({"lengths": [2]}, r"^--lengths: must be in \[3, 40\]"),
        ({"batch_sizes": [64]}, r"^--data: makes \d+ texts of 16 tokens, a batch takes 64"),
    ],
)
def test_what_is_refused(encoder: Encoder, arguments: dict[str, object], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        evaluate_latency(encoder, TEXTS, **({"lengths": [16], "batch_sizes": [1]} | arguments))


def test_a_batch_without_texts_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["latency", "--model", str(folder), "--batch_sizes", "1", "0"]) == 2
    assert "--batch_sizes: must be at least 1, got 0" in capsys.readouterr().err


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.txt").write_text("\n".join(TEXTS))
    before = torch.get_num_threads()
    command = ["latency", "--model", str(folder), "--data", str(tmp_path / "t.txt"), "--rounds", "2"]
    try:
        arguments = ["--batch_sizes", "1", "2", "--lengths", "5", "20", "--threads", "1"]
        assert main([*command, *arguments, "--output", str(tmp_path / "out.json")]) == 0
    finally:
        torch.set_num_threads(before)
    figures = json.loads((tmp_path / "out.json").read_text())["figures"]
    assert figures["threads"] == 1
    assert len(figures["rows"]) == 4
    printed = capsys.readouterr().out
    assert "  1 x 5 " in printed
    assert "  2 x 20* " in printed
