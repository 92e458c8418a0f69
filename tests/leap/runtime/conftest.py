"""Tiny models with a landing layer, exported once for all tests here."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_data
import torch

from configuration_leap import LeapConfig
from leap.runtime.__main__ import main
from modeling_leap import LeapModel

WORDS = tiny_data.WORDS
# By name: the fields of the exit rule, and theirs of a BERT that are not the usual ones here.
SHAPES = {
    "release": {"landing_layer": 5, "min_exit_layer": 1, "max_exit_layer": 1},
    "patience 2": {"landing_layer": 6, "min_exit_layer": 3, "max_exit_layer": 3, "exit_patience": 2},
    "p_0, patience 2": {"landing_layer": 4, "min_exit_layer": 2, "exit_patience": 2},
    "the paper's form": {"min_exit_layer": 3, "max_exit_layer": 3},
    "3 layers": {"landing_layer": 3, "min_exit_layer": 1, "num_hidden_layers": 3},
}


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """90 texts of 1 to 7 words."""
    return [" ".join(WORDS[i % 20 : i % 20 + 1 + i % 7]) for i in range(90)]


@pytest.fixture(scope="session")
def export_tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function of config fields: the folder of a tiny exported model, about half of whose texts leap."""

    def export(**fields: object) -> Path:
        torch.manual_seed(0)
        defaults: dict[str, object] = {
            "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4,
            "intermediate_size": 64, "max_position_embeddings": 40, "initializer_range": 0.2,
        }  # fmt: skip
        model = LeapModel(LeapConfig(**(defaults | fields))).eval()
        with torch.no_grad():  # or they would be nothing but noise beside the words
            model.embeddings.token_type_embeddings.weight *= 5
        if "exit_threshold" not in fields:
            model.config.exit_threshold = median_similarity(model)
        path = tiny_data.save_tiny(tmp_path_factory.mktemp("model"), model)
        assert main(["export", "--model", str(path), "--output", str(path / "onnx")]) == 0
        return path

    return export


@pytest.fixture(scope="session")
def tiny_models(export_tiny: Callable[..., Path]) -> Callable[[str], Path]:
    """A function of a name of `SHAPES`: the folder of that model, made when it is first asked for."""
    made: dict[str, Path] = {}

    def tiny(name: str) -> Path:
        if name not in made:
            made[name] = export_tiny(**SHAPES[name])
        return made[name]

    return tiny


@pytest.fixture
def folder(tiny_models: Callable[[str], Path]) -> Path:
    """A checkpoint of the form that is released, with its ONNX files."""
    return tiny_models("release")


def median_similarity(model: LeapModel) -> float:
    """s that about half of random texts reach."""
    ids = torch.tensor(np.random.default_rng(0).integers(5, 28, (64, 6)))
    (layer,) = model.config.exit_thresholds(-1.0)
    with torch.inference_mode():
        layers = model(ids, output_layer_embeddings=True).layer_embeddings
    now, before = layers[:, layer], layers[:, layer - model.config.exit_patience]
    return float(torch.cosine_similarity(now, before).median())
