"""`front`: its metrics against `pareto` and `retrieval`, baselines by hand, noise and loss told apart."""

import json
from collections.abc import Callable
from pathlib import Path

import eval.quality.pareto
import eval_toys
import numpy as np
import pytest
from eval.quality.pareto import DepthScores

import eval.quality.front
from eval.__main__ import main
from eval.quality.front import BASELINES, PairSpearman, QueryScore, WorstFidelity, compare_front, query_tables
from eval.quality.retrieval import evaluate_retrieval
from eval.quality.sts import embed_pairs
from leap.encode.encoder import load_encoder
from leap.encode.exits import successive_cosines
from leap.text.sets import load_retrieval, load_sts
from modeling_leap import LeapModel

RULE = {"kind": "one theta", **eval_toys.RULE}


def test_points_are_those_of_pareto(tmp_path: Path, make_tiny_model: Callable[..., LeapModel]) -> None:
    encoder = load_encoder(str(eval_toys.save_toy(tmp_path / "toy", make_tiny_model())))
    data = load_sts(str(eval_toys.write_pairs(tmp_path / "pairs.csv")))
    layers = embed_pairs(encoder, data)
    wanted = DepthScores(layers, data.scores, 1).measure(RULE["exit_threshold"], RULE["min_exit_layer"])
    for metric, key in (
        (PairSpearman(layers, data.scores), "spearman"),
        (WorstFidelity(layers), "fidelity_p5"),
    ):
        found = compare_front(metric, successive_cosines(layers), [RULE], resamples=20)
        (point,) = found["points"]
        assert point["mean_layer"] == pytest.approx(wanted["mean_exit_layer"])
        assert point["score"] == pytest.approx(wanted[key])
        assert point["line"]["score"] == pytest.approx(wanted["static_at_mean_layer"][key])
        deep_enough = found["static"][: int(point["mean_layer"])]
        assert point["cut"]["score"] == max(deep_enough)
        assert deep_enough[point["cut_layer"] - 1] == max(deep_enough)
        for name in BASELINES:
            assert point[name]["difference"] == pytest.approx(point["score"] - point[name]["score"])


def test_queries_are_scored_as_by_retrieval(
    tmp_path: Path, make_tiny_model: Callable[..., LeapModel]
) -> None:
    model, teacher = (
        load_encoder(str(eval_toys.save_toy(tmp_path / name, make_tiny_model(seed=seed, **rule))))
        for name, seed, rule in (("model", 0, eval_toys.RULE), ("teacher", 1, {}))
    )
    data = load_retrieval(str(eval_toys.write_beir(tmp_path / "beir")))
    cache = tmp_path / "cache"
    wanted = evaluate_retrieval(model, data, teacher=teacher, cache=cache)["settings"]
    cosines, tables = query_tables(model, data, teacher=teacher, own_documents=True, cache=cache)
    for documents, setting in (
        ("teacher's documents", "teacher_documents"),
        ("own documents", "exit_queries"),
        ("own documents with exits", "exits"),
    ):
        (point,) = compare_front(QueryScore("nDCG@10", tables[documents]), cosines, [RULE], resamples=5)[
            "points"
        ]
        assert point["score"] == pytest.approx(wanted[setting]["ndcg@10"])
        assert point["mean_layer"] == pytest.approx(wanted[setting]["mean_query_layer"])


def signalled(informed: bool) -> tuple[QueryScore, np.ndarray]:
    """400 queries, half right from layer 2 on and half from layer 3 on; s_2 that knows which or not."""
    random = np.random.default_rng(0)
    easy = random.random(400) < 0.5
    table = np.stack([np.zeros(400), easy, np.ones(400)], axis=1).astype(float)
    knows = easy if informed else random.random(400) < 0.5
    return QueryScore("nDCG@10", table), np.stack([np.full(400, np.nan), knows, np.ones(400)], axis=1)


def test_noise_is_told_from_gain_and_from_loss() -> None:
    rule = {"kind": "one theta", "exit_threshold": 0.5, "min_exit_layer": 2}
    metric, knowing = signalled(True)
    found = compare_front(metric, knowing, [rule])
    (point,) = found["points"]
    assert point["score"] == 1
    assert point["line"]["score"] == pytest.approx(0.75, abs=0.03)
    assert point["coin"]["score"] == pytest.approx(point["line"]["score"], abs=0.01)
    assert found["worst"]["coin"] | {"mean_layer": 0, "difference": 0, "interval": 0} == {
        "mean_layer": 0,
        "difference": 0,
        "interval": 0,
        "below": 0,
        "above": 1,
    }
    blind = compare_front(metric, signalled(False)[1], [rule])["worst"]
    assert (blind["line"]["below"], blind["line"]["above"]) == (0, 0)
    assert blind["line"]["interval"][0] < 0 < blind["line"]["interval"][1]
    # The wrong way round: easy texts go on, hard ones leave.
    wrong = compare_front(metric, 1 - knowing, [rule])["worst"]
    assert (wrong["line"]["below"], wrong["coin"]["below"]) == (1, 1)


@pytest.fixture
def command(
    tmp_path: Path, make_tiny_model: Callable[..., LeapModel], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    monkeypatch.setenv("LEAP_DATA", str(tmp_path))
    monkeypatch.setattr(eval.quality.pareto, "SHARES", (None, 0.5, 1.0))
    monkeypatch.setattr(eval.quality.front, "DEFAULT_THETAS", (0.5, 0.9))
    eval_toys.write_pairs(tmp_path / "stsb" / "test.csv")
    rows = [f"{second},{first},{score}" for first, second, score in reversed(eval_toys.PAIRS)]
    (tmp_path / "stsb" / "validation.csv").write_text("\n".join(["sentence1,sentence2,score", *rows]) + "\n")
    eval_toys.write_beir(tmp_path / "beir" / "toy")
    model = eval_toys.save_toy(tmp_path / "m", make_tiny_model(**eval_toys.RULE))
    line = f"front --model {model} --teacher {model} --retrieval toy --resamples 10 --cache {tmp_path}/cache"
    return line.split()


def test_the_command(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    output, plot = tmp_path / "front.json", tmp_path / "front.png"
    assert main([*command, "--own_documents", "--output", str(output), "--plot", str(plot)]) == 0
    figures = json.loads(output.read_text())["figures"]
    said = [(found["name"], found["metric"], found["documents"]) for found in figures["sets"]]
    assert said == [
        ("stsb/test", "Spearman", None),
        ("stsb/test", "5th percentile of fidelity", None),
        ("toy/test", "nDCG@10", "teacher's documents"),
        ("toy/test", "nDCG@10", "own documents"),
        ("toy/test", "nDCG@10", "own documents with exits"),
    ]
    for found in figures["sets"]:
        assert {point["kind"] for point in found["points"]} == {"one theta", "theta a layer", "config"}
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "config's rule (theta 0.5)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--split validation", "--split: rules come from validation"),
        ("--sts {tmp}/stsb/test.csv", "has one split"),
        ("--plot x.gif", "--plot: 'x.gif' must end in"),
        ("--retrieval nowhere/else/at/all", "--data: "),
    ],
)
def test_one_line_for_a_wrong_argument(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    assert main(command + arguments.format(tmp=tmp_path).split()) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_retrieval_needs_a_teacher(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    at = command.index("--teacher")
    assert main(command[:at] + command[at + 2 :]) == 2
    assert "--retrieval: needs the encoder of the documents" in capsys.readouterr().err
