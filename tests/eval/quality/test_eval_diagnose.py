"""`diagnose`: figures are those of the model itself, and what cannot be diagnosed is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_data

from eval.__main__ import main
from eval.quality.diagnose import diagnose
from leap.encode.encoder import load_encoder
from leap.errors import UsageError
from modeling_leap import LeapModel

TEXTS = [sentence for pair in tiny_data.PAIRS for sentence in pair[:2]]
FORM = {"landing_layer": 5, "min_exit_layer": 1, "max_exit_layer": 1}


@pytest.fixture
def folder(tmp_path: Path, make_tiny_model: Callable[..., LeapModel]) -> Path:
    return tiny_data.save_tiny(tmp_path / "tiny", make_tiny_model(**FORM))


def test_figures_are_those_of_the_model(folder: Path) -> None:
    encoder = load_encoder(str(folder))
    middle = diagnose(encoder, TEXTS, exit_threshold=-1, timed_texts=2, rounds=1)["thetas"][4]
    assert middle["leap_share"] == 0.5
    found = diagnose(encoder, TEXTS, exit_threshold=middle["theta"], timed_texts=3, rounds=2)
    assert found["leap_share"] == pytest.approx(0.5)
    assert found["layers"] == pytest.approx(4.5)
    assert found["moved"]["mean"] > 0.001
    time = found["milliseconds"]
    assert time["texts"] == 3
    assert time["speedup"] == pytest.approx(time["full_depth"] / time["rule"])
    nobody = diagnose(encoder, TEXTS, exit_threshold=1.0, timed_texts=1, rounds=1)
    assert (nobody["leap_share"], nobody["layers"], nobody["moved"]["p99"]) == (
        0,
        6,
        pytest.approx(0, abs=1e-6),
    )
    assert np.all(np.diff([row["theta"] for row in found["thetas"]]) < 0)


def test_what_is_refused(folder: Path, tmp_path: Path, make_tiny_model: Callable[..., LeapModel]) -> None:
    with pytest.raises(UsageError, match=r"^--exit_threshold: the model has none in its config"):
        diagnose(load_encoder(str(folder)), TEXTS)
    with pytest.raises(UsageError, match=r"^--exit_threshold must be a number in"):
        diagnose(load_encoder(str(folder)), TEXTS, exit_threshold=3)
    one = load_encoder(str(tiny_data.save_tiny(tmp_path / "one", make_tiny_model(num_hidden_layers=1))))
    with pytest.raises(UsageError, match=r"^--model: .* no layer at which texts could leave"):
        diagnose(one, TEXTS, exit_threshold=0.5)


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    line = f"diagnose --model {folder} --data {tmp_path / 'texts.txt'} --exit_threshold 0.2 --rounds 1"
    assert main([*line.split(), "--timed_texts", "2", "--output", str(tmp_path / "out.json")]) == 0
    figures = json.loads((tmp_path / "out.json").read_text())["figures"]
    assert figures["exit_threshold"] == 0.2
    assert f"{figures['leap_share']:.1%} leave early" in capsys.readouterr().out
