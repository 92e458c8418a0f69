"""`diagnose`: every figure against its definition; the verdict by hand; the teacher fails, LEAP passes."""

import json
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import eval_toys
import numpy as np
import pytest

from eval.__main__ import main
from eval.quality.diagnose import balance, compare_depths, diagnose, exit_rates, judge, time_layers
from leap.encode.encoder import Encoder, encode, encode_layers, load_encoder
from leap.encode.exits import row_cosines
from leap.encode.metrics import spearman
from leap.errors import UsageError
from leap.text.samples import Texts
from leap.text.sets import StsData, load_sts
from modeling_leap import LeapModel

THETA = eval_toys.RULE["exit_threshold"]


@pytest.fixture
def folder(tmp_path: Path, make_tiny_model: Callable[..., LeapModel]) -> Path:
    """A checkpoint whose own l_min is late: the diagnosis is not to follow it."""
    return eval_toys.save_toy(tmp_path / "toy", make_tiny_model(exit_threshold=0.9, min_exit_layer=5))


@pytest.fixture
def encoder(folder: Path) -> Encoder:
    return load_encoder(str(folder))


@pytest.fixture
def data(tmp_path: Path) -> StsData:
    return load_sts(str(eval_toys.write_pairs(tmp_path / "pairs.csv")))


def test_curve_and_exits_are_those_of_the_model(encoder: Encoder, data: StsData) -> None:
    figures = diagnose(encoder, data, theta=THETA, rounds=1)
    texts = data.first + data.second
    assert figures["texts"] == len(texts)
    layers = encode_layers(encoder, texts)
    curve = [row_cosines(layers[:, layer], layers[:, -1]).mean() for layer in range(6)]
    assert figures["similarity_curve"] == pytest.approx(curve, abs=1e-6)
    left = encode(encoder, texts, exit_threshold=THETA, min_exit_layer=2).exit_layers
    exits = figures["exits"]
    assert exits["rate"] == pytest.approx([(left == layer).mean() for layer in range(1, 7)])
    assert exits["exited"] == pytest.approx((left < 6).mean())
    assert exits["mean_exit_layer"] == pytest.approx(left.mean())
    assert len(np.unique(left)) > 1
    assert len(figures["time"]["layer_ms"]) == 6
    json.dumps(figures, allow_nan=False)


def test_the_highest_rate_is_of_the_layers_before_the_last() -> None:
    found = exit_rates(np.array([2, 2, 4, 6, 6, 6, 6, 6]), 6)
    assert found["rate"] == [0, 0.25, 0, 0.125, 0, 0.625]
    assert (found["highest_rate"], found["exited"], found["mean_exit_layer"]) == (0.25, 0.375, 4.75)


def test_the_balance_by_hand() -> None:
    """Watched from layer 1: the text that leaves at 2 is looked at twice, the other to layer 3 of 4."""
    found = balance([1.0, 2.0, 4.0, 8.0], 0.5, np.array([2, 4]), first_watched=1)
    assert found["saved_ms"] == pytest.approx((4 + 8) / 2)
    assert found["watching_ms"] == pytest.approx(0.5 * (2 + 3) / 2)
    assert found["saved_over_watching"] == pytest.approx(6 / 1.25)


def test_every_layer_and_look_is_timed(encoder: Encoder, data: StsData) -> None:
    found = time_layers(encoder, data.first, rounds=2)
    assert found["texts"] == len(data.first)
    assert len(found["layer_ms"]) == 6
    assert min(*found["layer_ms"], found["watch_ms"]) > 0


def test_depths_are_compared_as_pairs_that_left_there(encoder: Encoder, data: StsData) -> None:
    layers = encode_layers(encoder, data.first + data.second)
    found = compare_depths(layers, data.scores)
    first, second = np.split(layers, 2)
    for one, other in ((0, 0), (1, 4), (4, 1), (5, 5)):
        wanted = spearman(row_cosines(first[:, one], second[:, other]), data.scores)
        assert found["spearman"][one][other] == pytest.approx(wanted)
        cosines = [
            row_cosines(layers[i, one], layers[j, other]) for i, j in permutations(range(len(layers)), 2)
        ]
        assert found["random_cosine"][one][other] == pytest.approx(np.mean(cosines), abs=1e-6)


def test_plain_texts_have_no_spearman(encoder: Encoder) -> None:
    texts = Texts("t", "0" * 64, [first for first, _, _ in eval_toys.PAIRS])
    figures = diagnose(encoder, texts, theta=THETA, rounds=1)
    assert set(figures["comparability"]) == {"random_cosine"}
    assert figures["texts"] == len(texts.texts)


def made_up(curve: float = 0.96, exited: float = 0.9, ratio: float = 9.0) -> dict[str, Any]:
    return {
        "exit_threshold": 0.95,
        "similarity_curve": [0.2, curve, curve - 0.1, 1.0],
        "exits": {"exited": exited},
        "time": {"saved_ms": ratio, "watching_ms": 1.0, "saved_over_watching": ratio},
    }


@pytest.mark.parametrize(
    ("figures", "failing"),
    [
        ({}, None),
        ({"curve": 0.95, "exited": 0.5, "ratio": 1.0}, None),  # the bounds themselves
        ({"curve": 0.949}, "similarity curve"),
        ({"exited": 0.49}, "exit rate"),
        ({"ratio": 0.99}, "cost of watching"),
    ],
)
def test_the_verdict_by_hand(figures: dict[str, float], failing: str | None) -> None:
    verdict = judge(made_up(**figures))
    assert verdict["exits_early"] == (failing is None)
    assert [reason["diagnostic"] for reason in verdict["reasons"] if not reason["holds"]] == (
        [failing] if failing else []
    )
    assert len(verdict["reasons"]) == 3


def test_reasons_name_figure_and_bound() -> None:
    texts = [reason["text"] for reason in judge(made_up(curve=0.426, exited=0.006, ratio=0.04))["reasons"]]
    for text, figure, bound in zip(
        texts, ("0.426", "0.6%", "0.04 times"), ("0.95", "50%", "1 "), strict=True
    ):
        assert "fails: " in text
        assert figure in text
        assert bound in text


def test_what_is_refused(
    encoder: Encoder, data: StsData, make_tiny_model: Callable[..., LeapModel], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"^--theta: exit_threshold must be a number in \(-1, 1\]"):
        diagnose(encoder, data, theta=1.5)
    shallow = load_encoder(str(eval_toys.save_toy(tmp_path / "s", make_tiny_model(num_hidden_layers=2))))
    with pytest.raises(UsageError, match=r"^--model: .* has 2 layers: give a model of 3 or more"):
        diagnose(shallow, data)


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    pairs, output, plot = (str(tmp_path / name) for name in ("pairs.csv", "out.json", "plot.png"))
    eval_toys.write_pairs(Path(pairs))
    command = ["diagnose", "--model", str(folder), "--data", pairs, "--theta", "0.5", "--rounds", "1"]
    assert main([*command, "--output", output, "--plot", plot]) == 0
    figures = json.loads(Path(output).read_text())["figures"]
    assert figures["exit_threshold"] == 0.5
    assert Path(plot).read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    for reason in figures["verdict"]["reasons"]:
        assert reason["text"] in printed
    assert main([*command, "--plot", "plot.txt"]) == 2
    assert "--plot: 'plot.txt' must end in one of" in capsys.readouterr().err


def test_plain_texts_are_drawn_too(encoder: Encoder, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from eval.plot import plot_diagnosis

    figures = diagnose(encoder, Texts("t", "0" * 64, ["a cat", "the dog ran"]), rounds=1)
    plot_diagnosis(figures, "t", tmp_path / "plot.svg")
    assert "<svg" in (tmp_path / "plot.svg").read_text()


@pytest.mark.real_weights
def test_the_teacher_does_not_exit_early_and_leap_does(
    teacher_path: Path, repo_root: Path, train_texts: Callable[[int], list[str]]
) -> None:
    texts = Texts("train", "0" * 64, train_texts(48))
    teacher = diagnose(load_encoder(str(teacher_path)), texts, rounds=1)
    assert [reason["holds"] for reason in teacher["verdict"]["reasons"]] == [False] * 3
    assert max(teacher["similarity_curve"][:-1]) < 0.6
    leap = diagnose(load_encoder(str(repo_root)), texts, rounds=1)
    assert leap["verdict"]["exits_early"], leap["verdict"]["reasons"]
