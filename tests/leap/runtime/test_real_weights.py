"""The checkpoint of this repository in one graph, on real texts: beside torch, alone and in batches."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from leap.encode.encoder import encode, load_encoder
from leap.encode.exits import row_cosines, unit_vectors
from leap.runtime import LeapEncoder
from leap.runtime.export import export

pytestmark = pytest.mark.real_weights
COUNT = 160
BAND = 1e-5  # of s around theta: rounding may carry a text over it


@pytest.fixture(scope="module")
def texts(train_texts: Callable[[int], list[str]]) -> list[str]:
    return [*train_texts(COUNT - 3), "", "word " * 400, "naïve café 東京 🙂"]


@pytest.fixture(scope="module")
def exported(repo_root: Path, tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """A copy, with a threshold in the widest gap of the middle half of the texts' s."""
    folder = tmp_path_factory.mktemp("model") / "real"
    folder.mkdir()
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json"):
        shutil.copy(repo_root / name, folder)
    config = json.loads((repo_root / "config.json").read_text())
    if config.get("landing_layer") is None:  # weights of the paper's form leap too, if not well
        config |= {"landing_layer": 5, "min_exit_layer": 1, "max_exit_layer": 1}
    (folder / "config.json").write_text(json.dumps(config))
    similarity = np.sort(similarities(folder, texts))[len(texts) // 4 : -len(texts) // 4]
    gaps = np.diff(similarity)
    assert gaps.max() > 2 * BAND
    config["exit_threshold"] = float(similarity[gaps.argmax()] + gaps.max() / 2)
    (folder / "config.json").write_text(json.dumps(config))
    export(folder, folder / "onnx")
    return folder


def similarities(folder: Path, texts: list[str]) -> np.ndarray:
    """(N,) s at the test layer."""
    encoder = load_encoder(str(folder), device="cpu")
    (layer,) = encoder.model.config.exit_thresholds(-1.0)
    before = layer - encoder.model.config.exit_patience
    found = []
    for text in texts:
        batch = encoder.tokenizer([text], truncation=True, max_length=encoder.max_length, return_tensors="pt")
        with torch.inference_mode():
            layers = encoder.model(**batch, output_layer_embeddings=True).layer_embeddings[0]
        found.append(float(torch.cosine_similarity(layers[layer], layers[before], dim=0)))
    return np.array(found)


def test_torch_and_every_batch_size_agree(exported: Path, texts: list[str]) -> None:
    expected = encode(load_encoder(str(exported), device="cpu"), texts, batch_size=16)
    assert 0.2 < (expected.exit_layers == 1).mean() < 0.8
    encoder = LeapEncoder.from_pretrained(exported, threads=1)
    for size in (1, 5, 64):
        found, layers = encoder.encode(texts, size, return_exit_layers=True)
        assert_array_equal(layers, expected.exit_layers)
        assert_allclose(found, unit_vectors(expected.embeddings), atol=1e-5)


@pytest.mark.parametrize("theta", [None, -1])
def test_int8_is_near(exported: Path, texts: list[str], theta: float | None) -> None:
    exact = LeapEncoder.from_pretrained(exported, threads=1).encode(texts, exit_threshold=theta)
    encoder = LeapEncoder.from_pretrained(exported, threads=1, precision="int8")
    cosines = row_cosines(encoder.encode(texts, exit_threshold=theta), exact)
    assert cosines.mean() > 0.99 and cosines.min() > 0.97
