"""`pareto`: the grid against `sts`, the frontier and the choice by hand, writing the choice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import eval_toys
import numpy as np
import pytest
from eval.quality.pareto import choose, evaluate_pareto, frontier, layer_thetas, write_rule

from eval.__main__ import main
from eval.quality.sts import evaluate_sts
from leap.encode.encoder import Encoder, encode, encode_layers, load_encoder
from leap.encode.exits import at_layers, exit_layers, row_cosines, successive_cosines
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


def test_grid_and_static_cuts_equal_sts(encoder: Encoder, data: StsData) -> None:
    figures = evaluate_pareto(encoder, data, thetas=[0.5, 0.55], min_exit_layers=[2, 4])
    assert len(figures["grid"]) == 4
    for found in figures["grid"]:
        rule = {key: found[key] for key in ("exit_threshold", "min_exit_layer")}
        wanted = evaluate_sts(encoder, data, **rule)
        assert found["spearman"] == pytest.approx(wanted["exits"]["spearman"])
        assert found["mean_exit_layer"] == pytest.approx(wanted["exits"]["mean_exit_layer"])
    static = [cut["spearman"] for cut in figures["static"]]
    assert static == pytest.approx([cut["spearman"] for cut in wanted["static"]])


def test_fidelity_and_static_cuts_at_equal_depth(encoder: Encoder, data: StsData) -> None:
    figures = evaluate_pareto(encoder, data, thetas=[eval_toys.RULE["exit_threshold"]], min_exit_layers=[2])
    layers = encode_layers(encoder, data.first + data.second)
    left = exit_layers(successive_cosines(layers), eval_toys.RULE["exit_threshold"], 2)
    kept = row_cosines(at_layers(layers, left), layers[:, -1])
    (found,) = figures["grid"]
    assert found["fidelity_mean"] == pytest.approx(kept.mean())
    assert found["fidelity_p5"] == pytest.approx(np.quantile(kept, 0.05))
    assert figures["static"][-1]["fidelity_p5"] == pytest.approx(1)
    below = int(found["mean_exit_layer"])
    share = found["mean_exit_layer"] - below
    assert share > 0
    for key, value in found["static_at_mean_layer"].items():
        wanted = (1 - share) * figures["static"][below - 1][key] + share * figures["static"][below][key]
        assert value == pytest.approx(wanted)


def test_default_grid_covers_the_first_layers_that_there_are(encoder: Encoder, data: StsData) -> None:
    figures = evaluate_pareto(encoder, data)
    assert {found["min_exit_layer"] for found in figures["grid"]} == {2, 3, 4, 5}
    thetas = [found["exit_threshold"] for found in figures["grid"] if found["min_exit_layer"] == 2]
    assert thetas == sorted(set(thetas))
    assert (thetas[0], thetas[-1]) == (0.5, 0.999)


def test_points_of_each_layer_are_what_sts_gives(encoder: Encoder, data: StsData) -> None:
    figures = evaluate_pareto(encoder, data, thetas=[0.5], per_layer=True)
    assert figures["per_layer"] == frontier(figures["per_layer"])
    found = figures["per_layer"][-1]
    wanted = evaluate_sts(encoder, data, exit_threshold=found["exit_threshold"], min_exit_layer=2)
    assert found["spearman"] == pytest.approx(wanted["exits"]["spearman"])
    assert found["mean_exit_layer"] == pytest.approx(wanted["exits"]["mean_exit_layer"])


def test_a_wrong_grid_is_refused(encoder: Encoder, data: StsData) -> None:
    with pytest.raises(UsageError, match="exit_threshold"):
        evaluate_pareto(encoder, data, thetas=[0.9, 1.1])
    with pytest.raises(UsageError, match="min_exit_layer"):
        evaluate_pareto(encoder, data, min_exit_layers=[1])


def test_write_changes_nothing_else(tmp_path: Path, tiny_model: LeapModel) -> None:
    folder = eval_toys.save_toy(tmp_path / "toy", tiny_model)
    before = json.loads((folder / "config.json").read_text())
    write_rule(folder, point(3.0, 0.8, 0.93))
    after = json.loads((folder / "config.json").read_text())
    assert after == before | {"exit_threshold": 0.93, "min_exit_layer": 2}
    assert list(after) == list(before)
    assert load_encoder(str(folder)).exit_rule() == (0.93, 2, 1)


def test_thresholds_of_each_layer_are_chosen_and_written(
    tmp_path: Path, make_tiny_model: Callable[..., LeapModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From layer 2 on, by the command; the model then leaves as the choice says."""
    monkeypatch.setattr("eval.quality.pareto.SHARES", (None, 0.25, 0.5, 0.75, 1.0))
    folder = eval_toys.save_toy(tmp_path / "toy", make_tiny_model())
    data, output = eval_toys.write_pairs(tmp_path / "pairs.csv"), tmp_path / "out.json"
    line = f"pareto --model {folder} --data {data} --per_layer --choose --max_mean_layer 3.0 --write"
    assert main([*line.split(), "--thetas", "0.999", "--output", str(output)]) == 0
    chosen = json.loads(output.read_text())["figures"]["chosen"]
    config = json.loads((folder / "config.json").read_text())
    assert isinstance(config["exit_threshold"], list)
    assert len(config["exit_threshold"]) == 6
    assert config["exit_threshold"][1] == round(config["exit_threshold"][1], 3)  # not as float32 has it
    assert (config["exit_threshold"], config["min_exit_layer"]) == (chosen["exit_threshold"], 2)
    pairs = load_sts(str(data))
    left = encode(load_encoder(str(folder)), pairs.first + pairs.second).exit_layers
    assert left.mean() == pytest.approx(chosen["mean_exit_layer"])
    assert left.mean() <= 3.0


def test_plot_is_a_picture_and_other_endings_are_refused(
    encoder: Encoder, data: StsData, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    from eval.plot import check_format, plot_pareto

    figures = evaluate_pareto(encoder, data)
    figures["chosen"] = choose(figures["grid"], max_mean_layer=5)
    plot_pareto(figures, data.name, tmp_path / "plot.png")
    plot_pareto(figures, data.name, tmp_path / "plot.svg")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "plot.svg").read_text()
    with pytest.raises(UsageError, match=r"--plot: .* must end in one of \.png, \.svg, \.pdf"):
        check_format("--plot", tmp_path / "plot.txt")
