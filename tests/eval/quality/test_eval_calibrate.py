"""`calibrate`: the threshold chosen is the loosest that passes, the certificate, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import eval_toys
import numpy as np
import pytest
from eval.quality.risk import hoeffding_bentkus

from eval.__main__ import main
from eval.quality.calibrate import THETAS, calibrate, exit_losses, learn_path
from leap.encode.encoder import Encoder, encode, encode_layers, load_encoder
from leap.encode.exits import row_cosines
from leap.errors import NothingQualifiesError, UsageError
from modeling_leap import LeapModel


def toy_texts(count: int = 400) -> list[str]:
    """Random sentences of 1 to 8 of the toy tokenizer's words."""
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(eval_toys.WORDS, size=rng.integers(1, 9))) for _ in range(count)]


@pytest.fixture
def folder(tmp_path: Path, make_tiny_model: Callable[..., LeapModel]) -> Path:
    return eval_toys.save_toy(tmp_path / "toy", make_tiny_model(min_exit_layer=3, note={"of": "others"}))


@pytest.fixture
def encoder(folder: Path) -> Encoder:
    return load_encoder(str(folder))


def observed(encoder: Encoder, texts: list[str], **rule: Any) -> float:
    """The risk of a rule as the model itself runs it."""
    full = encode(encoder, texts, exit_threshold=None).embeddings
    return float((1 - row_cosines(encode(encoder, texts, **rule).embeddings, full)).clip(0, 1).mean())


def test_the_loosest_threshold_that_passes(encoder: Encoder) -> None:
    texts, alpha, delta = toy_texts(), 0.2, 0.1
    found = calibrate(encoder, texts, alpha=alpha, delta=delta)
    theta = found["exit_threshold"]
    assert THETAS[0] > theta > THETAS[-1]
    assert (found["min_exit_layer"], found["exit_patience"], found["n"]) == (3, 1, 400)
    risk = observed(encoder, texts, exit_threshold=theta)
    assert found["risk"] == pytest.approx(risk, abs=1e-4)
    assert found["p_value"] <= delta
    assert found["p_value"] == pytest.approx(hoeffding_bentkus(found["risk"], 400, alpha))
    looser = observed(encoder, texts, exit_threshold=THETAS[THETAS.index(theta) + 1])
    assert hoeffding_bentkus(looser, 400, alpha) > delta
    assert sum(found["exit_histogram"]) == 400
    assert 3 < found["mean_exit_layer"] < 6


def test_a_stricter_demand_gives_a_stricter_threshold(encoder: Encoder) -> None:
    found = [calibrate(encoder, toy_texts(), alpha=alpha, delta=0.1) for alpha in (0.1, 0.2, 0.3)]
    thetas = [figures["exit_threshold"] for figures in found]
    assert thetas == sorted(thetas, reverse=True)
    assert len(set(thetas)) == 3


def test_per_layer_tests_on_texts_that_the_path_has_not_seen(encoder: Encoder) -> None:
    texts = toy_texts()
    found = calibrate(encoder, texts, alpha=0.2, delta=0.1, per_layer=True, min_exit_layer=2, seed=3)
    thetas = found["exit_threshold"]
    assert (len(thetas), thetas[0], thetas[-1]) == (6, None, None)
    assert len(set(thetas[1:-1])) > 1
    assert (found["n"], found["grid"]["learnt_on"], found["grid"]["count"]) == (320, 80, 401)
    test = [texts[row] for row in np.random.default_rng(3).permutation(400)[80:]]
    rule = {"exit_threshold": thetas, "min_exit_layer": 2}
    assert found["risk"] == pytest.approx(observed(encoder, test, **rule), abs=1e-4)
    assert found["p_value"] <= 0.1


def test_the_guarantee_holds_on_resamples(encoder: Encoder) -> None:
    found = calibrate(encoder, toy_texts(2000), alpha=0.2, delta=0.2, resamples=200)["simulation"]
    assert (found["resamples"], found["texts"], found["population"]) == (200, 400, 2000)
    assert found["holding"] >= 0.8


def test_losses(encoder: Encoder) -> None:
    layers = encode_layers(encoder, toy_texts(20))
    layers[4, 2] = 0
    losses = exit_losses(layers)
    assert losses.shape == (20, 6)
    assert losses.min() >= 0 and losses.max() <= 1
    assert losses[4, 2] == 1
    assert (losses[:, -1] == 0).all()
    assert losses[0, 3] == pytest.approx(1 - row_cosines(layers[0, 3], layers[0, -1]), abs=1e-6)


def test_path_by_hand() -> None:
    """At layer 2 the loss is twice 1 - s, at layer 3 it is half of it: half the slack there, twice here."""
    cosines = np.array([[np.nan, 0.8, 0.6, 0.9], [np.nan, 0.6, 0.8, 0.9]])
    losses = np.array([[0.9, 0.4, 0.2, 0], [0.9, 0.8, 0.1, 0]])
    path = learn_path(cosines, losses, 2)
    assert path[0][2] == 0.9998
    assert path[-1] == [None, 0.5, 0.0, None]
    for layer in (1, 2):
        column = [thetas[layer] for thetas in path]
        assert column == sorted(column, reverse=True)
    assert learn_path(cosines, losses, 3)[-1] == [None, None, 0.0, None]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"alpha": 0}, r"^--alpha: must be in \(0, 1\), got 0"),
        ({"delta": 1.0}, r"^--delta: must be in \(0, 1\), got 1.0"),
        ({"min_exit_layer": 1}, r"^--min_exit_layer must be an integer in \[2, 6\], got 1"),
        ({"min_exit_layer": 6}, r"^--min_exit_layer: must be below 6"),
    ],
)
def test_what_makes_no_sense_is_refused(encoder: Encoder, arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        calibrate(encoder, toy_texts(5), **({"alpha": 0.1, "delta": 0.1} | arguments))


def test_too_few_texts_for_any_threshold(encoder: Encoder) -> None:
    # 0.95^45 < 0.1 < 0.95^44, and no text leaves at the strictest threshold.
    with pytest.raises(NothingQualifiesError, match=r"alpha 0\.05.* n 44, smallest .*never less than 45"):
        calibrate(encoder, toy_texts(44), alpha=0.05, delta=0.1)
    assert calibrate(encoder, toy_texts(45), alpha=0.05, delta=0.1)["risk"] < 0.01


@pytest.fixture
def command(folder: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "texts.txt").write_text("\n".join(toy_texts()) + "\n")
    data = str(tmp_path / "texts.txt")
    return ["calibrate", "--model", str(folder), "--data", data, "--alpha", "0.2", "--min_exit_layer", "2"]


@pytest.mark.parametrize("per_layer", [False, True])
def test_write(command: list[str], folder: Path, tmp_path: Path, per_layer: bool) -> None:
    before = json.loads((folder / "config.json").read_text())
    output = tmp_path / "out.json"
    extra = ["--per_layer"] if per_layer else []
    assert main([*command, "--write", "--texts", "300", "--output", str(output), *extra]) == 0
    result = json.loads(output.read_text())
    figures = result["figures"]
    after = json.loads((folder / "config.json").read_text())
    certificate = after.pop("exit_certificate")
    rule = {key: figures[key] for key in ("exit_threshold", "min_exit_layer")}
    assert after == before | rule
    assert after["note"] == {"of": "others"}
    assert rule["min_exit_layer"] == 2
    assert certificate["data"] == {"name": "texts.txt", "sha256": result["data"]["sha256"]}
    for key in ("exit_threshold", "min_exit_layer", "alpha", "delta", "n", "risk", "grid", "method"):
        assert certificate[key] == figures[key]
    assert certificate["n"] == (240 if per_layer else 300)
    encoder = load_encoder(str(folder))
    assert encoder.exit_rule() == (figures["exit_threshold"], 2, 1)
    assert encoder.model.config.exit_certificate == certificate
    assert certificate["model_sha256"] == encoder.fingerprint()
    encoder.model.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["exit_certificate"] == certificate


def test_nothing_is_written_when_nothing_qualifies(
    command: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "config.json").read_bytes()
    capsys.readouterr()
    assert main([*command, "--write", "--texts", "5", "--output", str(tmp_path / "out.json")]) == 1
    printed = capsys.readouterr()
    assert "no threshold qualifies: alpha 0.2, delta 0.1, n 5" in printed.err.splitlines()[-1]
    assert printed.out == ""
    assert (folder / "config.json").read_bytes() == before
    assert not (tmp_path / "out.json").exists()


def test_wrong_arguments_of_the_command(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--model", "a/b", "--write"]) == 2
    assert "--write: 'a/b' is not a folder" in capsys.readouterr().err
    assert main([*command, "--data", "nowhere.txt"]) == 2
    assert "--data: there is no file 'nowhere.txt'" in capsys.readouterr().err
