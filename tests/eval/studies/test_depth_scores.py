"""The paper's form: points of a grid against the model, the frontier and the choice by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import eval_toys
import numpy as np
import pytest

from eval.studies.depth_scores import DepthScores, choose, embed_pairs, frontier, layer_thetas, sweep
from leap.encode.encoder import Encoder, encode, load_encoder
from leap.encode.exits import at_layers, exit_layers, row_cosines, successive_cosines
from leap.encode.metrics import spearman
from leap.errors import UsageError
from leap.text.sets import StsData, load_sts
from modeling_leap import LeapModel


def point(layer: float, spearman: float, theta: float = 0.9) -> dict[str, Any]:
    return {"mean_exit_layer": layer, "spearman": spearman, "exit_threshold": theta, "min_exit_layer": 2}


GRID = [point(3.0, 0.80), point(2.0, 0.70, 0.5), point(2.0, 0.70, 0.6), point(2.5, 0.69), point(4.0, 0.80)]


def test_frontier_by_hand() -> None:
    """2.5 is beaten by 2.0, 4.0 by 3.0; of the two equal ones the stricter stays."""
    assert frontier(GRID) == [point(2.0, 0.70, 0.6), point(3.0, 0.80)]


def test_choice_by_hand() -> None:
    assert choose(GRID, max_mean_layer=3.6) == point(3.0, 0.80)
    assert choose(GRID, max_mean_layer=3.0) == point(3.0, 0.80)  # the bound itself is allowed
    assert choose(GRID, max_mean_layer=2.9) == point(2.0, 0.70, 0.6)
    assert choose(GRID, least=0.70) == point(2.0, 0.70, 0.6)
    assert choose(GRID, least=0.71) == point(3.0, 0.80)
    with pytest.raises(UsageError, match=r"--max_mean_layer: no point leaves by 1\.5; give 2\.000 or more"):
        choose(GRID, max_mean_layer=1.5)
    with pytest.raises(UsageError, match=r"--max_loss: no point reaches 0\.7100, the best has 0\.7000"):
        choose(GRID, max_mean_layer=2.9, least=0.71)


def test_thresholds_of_each_layer() -> None:
    """Of four texts' s_2 and s_3 in a model of four layers."""
    nan = np.nan
    cosines = np.array([[nan, 0.1, 0.5, 1], [nan, 0.2, 0.6, 1], [nan, 0.3, 0.7, 1], [nan, 0.4, 0.8, 1]])
    found = list(layer_thetas(cosines, 2))
    assert all(len(thetas) == 4 and thetas[0] is thetas[3] is None for thetas in found)
    assert [None, None, None, None] in found
    assert [None, 0.25, 0.65, None] in found  # half leave at layer 2, and thresholds let out half at layer 3
    assert [thetas for thetas in found if thetas[1] == 0.1] == [[None, 0.1, None, None]]  # all leave at 2
    assert exit_layers(cosines, [None, 0.25, 0.65, None], 2).tolist() == [4, 4, 2, 2]


@pytest.fixture
def encoder(tmp_path: Path, make_tiny_model: Callable[..., LeapModel]) -> Encoder:
    return load_encoder(str(eval_toys.save_toy(tmp_path / "toy", make_tiny_model())))


@pytest.fixture
def data(tmp_path: Path) -> StsData:
    return load_sts(str(eval_toys.write_pairs(tmp_path / "pairs.csv")))


def test_points_are_those_of_the_model_itself(encoder: Encoder, data: StsData) -> None:
    """Of one theta and of one a layer."""
    scores = DepthScores(embed_pairs(encoder, data), data.scores, 1)
    found = sweep(scores, [0.5, 0.55], [2, 4], per_layer=True)
    assert len(found["grid"]) == 4
    assert found["per_layer"] == frontier(found["per_layer"])
    for point in [*found["grid"], found["per_layer"][-1]]:
        rule = {key: point[key] for key in ("exit_threshold", "min_exit_layer")}
        encoded = encode(encoder, data.first + data.second, **rule)
        cosines = row_cosines(*np.split(encoded.embeddings, 2))
        assert point["spearman"] == pytest.approx(spearman(cosines, data.scores))
        assert point["mean_exit_layer"] == pytest.approx(encoded.exit_layers.mean())


def test_fidelity_and_static_cuts_at_equal_depth(encoder: Encoder, data: StsData) -> None:
    layers = embed_pairs(encoder, data)
    scores = DepthScores(layers, data.scores, 1)
    left = exit_layers(successive_cosines(layers), eval_toys.RULE["exit_threshold"], 2)
    kept = row_cosines(at_layers(layers, left), layers[:, -1])
    found = scores.measure(eval_toys.RULE["exit_threshold"], 2)
    assert found["fidelity_mean"] == pytest.approx(kept.mean())
    assert found["fidelity_p5"] == pytest.approx(np.quantile(kept, 0.05))
    assert scores.static[-1]["fidelity_p5"] == pytest.approx(1)
    below = int(found["mean_exit_layer"])
    share = found["mean_exit_layer"] - below
    assert share > 0
    for key, value in found["static_at_mean_layer"].items():
        wanted = (1 - share) * scores.static[below - 1][key] + share * scores.static[below][key]
        assert value == pytest.approx(wanted)
