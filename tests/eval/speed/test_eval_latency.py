"""`latency`: which texts are timed, a batch that leaves together, and the figures of a row."""

import json
from collections.abc import Callable
from pathlib import Path

import eval_toys
import pytest
import torch

from eval.__main__ import main
from eval.speed.latency import choose_texts, evaluate_latency, leave_together
from eval.speed.timing import tokenize
from leap.encode.encoder import Encoder, load_encoder
from leap.errors import UsageError
from modeling_leap import LeapModel

TEXTS = [text for pair in eval_toys.PAIRS for text in pair[:2]]


@pytest.fixture
def folder(tmp_path: Path, make_tiny_model: Callable[..., LeapModel]) -> Path:
    return eval_toys.save_toy(tmp_path / "toy", make_tiny_model(**eval_toys.RULE))


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


@pytest.mark.parametrize(
    "thetas", [dict.fromkeys(range(2, 6), 0.5), dict.fromkeys(range(3, 6), 0.4), {2: 0.6, 4: 0.4}]
)
@pytest.mark.parametrize("patience", [1, 2])
def test_together_is_where_the_last_row_leaves_alone(
    make_tiny_model: Callable[..., LeapModel], thetas: dict[int, float], patience: int
) -> None:
    thetas = {layer: theta for layer, theta in thetas.items() if layer > patience}
    encoder = Encoder("toy", make_tiny_model(exit_patience=patience), eval_toys.toy_tokenizer(), 40)
    by_layer = [thetas.get(layer) for layer in range(1, 7)]
    last = set()
    for start in range(0, len(TEXTS), 2):
        batch = tokenize(encoder, TEXTS[start : start + 2])
        with torch.inference_mode():
            alone = encoder.model(**batch, exit_threshold=by_layer, min_exit_layer=patience + 1)
            embeddings, left = leave_together(encoder.model, batch, thetas)
            layer = int(alone.exit_layer.max())
            cut = encoder.model(**batch, max_layers=layer, exit_threshold=None)
        assert left.tolist() == [layer, layer]
        torch.testing.assert_close(embeddings, cut.sentence_embedding)
        last.add(layer)
    if patience == 1 and len(thetas) > 2:
        assert min(last) < 6  # else only the full depth was compared


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
    assert figures["exit_threshold"] == eval_toys.RULE["exit_threshold"]
    one, four, long, _ = figures["rows"]
    assert (one["texts"], one["joined"], long["joined"]) == (4, False, True)
    for row in (one, long):  # of one text, both ways of leaving are the same
        assert row["mean_exit_layer"] == row["mean_exit_layer_together"]
    assert four["mean_exit_layer"] < four["mean_exit_layer_together"] <= 6
    for row in figures["rows"]:
        for name in ("full_depth", "exits", "exits_together"):
            assert 0 < row[name]["p50_ms"] <= row[name]["p95_ms"] <= row[name]["p99_ms"]
        full, exits, together = (row[name]["p50_ms"] for name in ("full_depth", "exits", "exits_together"))
        assert row["speedup"] == pytest.approx(full / exits)
        assert row["speedup_together"] == pytest.approx(full / together)
        assert row["speedup_possible"] == pytest.approx(6 / row["mean_exit_layer"])
        assert row["share_of_possible"] == pytest.approx(row["speedup"] / row["speedup_possible"])
        assert 0.8 * row["tokens"] <= row["mean_tokens"] <= row["tokens"]
    json.dumps(figures, allow_nan=False)


def test_further_thresholds_at_the_smallest_batch(encoder: Encoder) -> None:
    sizes, lengths, thetas = [1, 4], [5, 16], [-0.99, 1.0]
    figures = evaluate_latency(
        encoder, TEXTS, batch_sizes=sizes, lengths=lengths, thetas=thetas, rounds=2, min_exit_layer=2
    )
    points = figures["thresholds"]
    assert [(point["tokens"], point["exit_threshold"]) for point in points] == [
        (5, -0.99),
        (5, 1.0),
        (16, -0.99),
        (16, 1.0),
    ]
    assert [point["mean_exit_layer"] for point in points] == [2, 6, 2, 6]
    assert all(point["batch_size"] == 1 for point in points)
    full = figures["rows"][0]["full_depth"]["p50_ms"]
    assert points[0]["speedup"] == pytest.approx(full / points[0]["p50_ms"])


def test_a_threshold_of_each_layer(encoder: Encoder) -> None:
    thetas = [None, None, -0.99, None, None, None]
    figures = evaluate_latency(
        encoder, TEXTS, batch_sizes=[2], lengths=[5], rounds=1, exit_threshold=thetas, min_exit_layer=2
    )
    assert figures["exit_threshold"] == thetas
    assert figures["rows"][0]["mean_exit_layer"] == 3 == figures["rows"][0]["mean_exit_layer_together"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"min_exit_layer": 6}, r"^--exit_threshold: 0\.5 from layer 6 on lets nothing leave"),
        ({"exit_threshold": None}, r"^--exit_threshold: None from layer 2 on"),
        ({"exit_threshold": 2.0}, r"^--exit_threshold must be"),
        ({"batch_sizes": [1, 0]}, r"^--batch_sizes must be at least 1, got 0"),
        ({"lengths": [5, 41]}, r"^--lengths must be in \[3, 40\] for this model, got 41"),
        ({"lengths": [2]}, r"^--lengths must be in \[3, 40\]"),
        ({"batch_sizes": [64]}, r"^--data: makes \d+ texts of 16 tokens, a batch takes 64"),
    ],
)
def test_what_is_refused(encoder: Encoder, arguments: dict[str, object], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        evaluate_latency(encoder, TEXTS, **({"lengths": [16], "batch_sizes": [1]} | arguments))


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.txt").write_text("\n".join(TEXTS))
    before = torch.get_num_threads()
    command = ["latency", "--model", str(folder), "--data", str(tmp_path / "t.txt"), "--rounds", "2"]
    try:
        arguments = ["--batch_sizes", "1,2", "--lengths", "5,20", "--threads", "1"]
        assert main([*command, *arguments, "--output", str(tmp_path / "out.json")]) == 0
    finally:
        torch.set_num_threads(before)
    figures = json.loads((tmp_path / "out.json").read_text())["figures"]
    assert figures["threads"] == 1
    assert len(figures["rows"]) == 4
    printed = capsys.readouterr().out
    assert "  1 x 5 " in printed
    assert "  2 x 20* " in printed
