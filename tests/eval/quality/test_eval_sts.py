"""`sts`: scores and costs are those of the model itself; the teacher gives its published score."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_data

from eval.quality.sts import evaluate_sts
from leap.encode.encoder import encode, load_encoder
from leap.encode.exits import row_cosines
from leap.encode.metrics import spearman
from leap.errors import UsageError
from leap.text.sets import load_sts
from modeling_leap import LeapModel


@pytest.fixture
def folder(tmp_path: Path, make_tiny_model: Callable[..., LeapModel]) -> Path:
    return tiny_data.save_tiny(tmp_path / "tiny", make_tiny_model(**tiny_data.RULE))


def test_figures_are_those_of_the_model_itself(folder: Path, tmp_path: Path) -> None:
    encoder, data = load_encoder(str(folder)), load_sts(str(tiny_data.write_pairs(tmp_path / "pairs.csv")))
    figures = evaluate_sts(encoder, data)

    def score(**rule: object) -> float:
        first, second = (encode(encoder, side, **rule).embeddings for side in (data.first, data.second))
        return pytest.approx(spearman(row_cosines(first, second), data.scores))

    for path in figures["paths"]:  # of the paper's form: a text leaves there
        assert path["spearman"] == score(max_layers=path["test_layer"], exit_threshold=None)
        assert path["mean_layers_run"] == path["test_layer"]
    assert [path["test_layer"] for path in figures["paths"]] == [2, 3, 4, 5]
    assert figures["full_depth"]["spearman"] == score(exit_threshold=None)
    exits = figures["exits"]
    assert exits["spearman"] == score()
    rule = {"exit_patience": 1, "landing_layer": None, "max_exit_layer": None}
    assert exits | tiny_data.RULE | rule == exits
    found = encode(encoder, data.first + data.second)
    assert exits["mean_layers_run"] == pytest.approx(found.layers_run.mean())
    assert exits["leap_share"] == pytest.approx((found.exit_layers < 6).mean())
    assert len(np.unique(found.exit_layers)) > 1


def test_a_model_that_leaps(make_tiny_model: Callable[..., LeapModel], tmp_path: Path) -> None:
    model = make_tiny_model(landing_layer=5, min_exit_layer=1, max_exit_layer=1, exit_threshold=-1)
    encoder = load_encoder(str(tiny_data.save_tiny(tmp_path / "tiny", model)))
    figures = evaluate_sts(encoder, load_sts(str(tiny_data.write_pairs(tmp_path / "pairs.csv"))))
    (path,) = figures["paths"]
    assert (path["test_layer"], path["mean_layers_run"], figures["full_depth"]["mean_layers_run"]) == (
        1,
        3,
        6,
    )
    assert figures["exits"]["spearman"] == pytest.approx(path["spearman"])
    assert figures["exits"]["leap_share"] == 1


def test_the_rule_can_be_overridden_and_is_checked(folder: Path, tmp_path: Path) -> None:
    encoder, data = load_encoder(str(folder)), load_sts(str(tiny_data.write_pairs(tmp_path / "pairs.csv")))
    assert evaluate_sts(encoder, data, exit_threshold=-0.99)["exits"]["mean_layers_run"] == 2
    assert evaluate_sts(encoder, data, exit_threshold=None)["exits"] is None
    with pytest.raises(UsageError, match=r"^--exit_threshold must be"):
        evaluate_sts(encoder, data, exit_threshold=1.5)


@pytest.mark.slow
@pytest.mark.real_weights
def test_the_teacher_gives_its_published_score(
    teacher_path: Path, repo_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """all-MiniLM-L6-v2 has 82.03 on STS-B test in MTEB's results."""
    root = Path(os.environ.get("LEAP_DATA") or repo_root.parent / "shared" / "data")
    if not (root / "stsb" / "test.csv").is_file():
        pytest.skip(f"no STS-B: {root}/stsb/test.csv is not there (set LEAP_DATA)")
    monkeypatch.setenv("LEAP_DATA", str(root))
    figures = evaluate_sts(load_encoder(str(teacher_path)), load_sts("stsb", "test"))
    assert figures["pairs"] == 1379
    assert figures["full_depth"]["spearman"] == pytest.approx(0.8203, abs=5e-5)
