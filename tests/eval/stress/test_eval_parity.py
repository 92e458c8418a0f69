"""ONNX files beside torch, counted."""

import itertools
import json
from pathlib import Path

import eval_toys
import numpy as np
import pytest
import torch

from configuration_leap import LeapConfig
from eval.__main__ import main
from eval.stress.parity import compare
from leap.encode.encoder import encode_layers, load_encoder
from leap.runtime import LeapEncoder
from leap.runtime.__main__ import main as runtime
from modeling_leap import LeapModel

TEXTS = [" ".join(eval_toys.WORDS[i % 20 : i % 20 + 1 + i % 7]) for i in range(60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with its ONNX files."""
    torch.manual_seed(0)
    config = LeapConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=6, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=40, initializer_range=0.2, min_exit_layer=3, exit_threshold=0.5,
    )  # fmt: skip
    path = eval_toys.save_toy(tmp_path_factory.mktemp("model"), LeapModel(config).eval())
    assert runtime(["export", "--model", str(path), "--output", str(path / "onnx")]) == 0
    return path


def test_equal_files_differ_nowhere_and_others_are_counted(folder: Path) -> None:
    layers = encode_layers(load_encoder(str(folder)), TEXTS)
    encoder = LeapEncoder.from_pretrained(folder, threads=1)
    row = compare(layers, encoder, TEXTS, batch_size=8)
    assert row["texts"] == 60 and row["other_layer"] == 0
    assert row["largest_difference"] < 1e-5 and row["lowest_cosine"] > 1 - 1e-5
    # Layers in another order stand for a file of other weights: texts leave elsewhere, or differ.
    other = compare(layers[::-1], encoder, TEXTS, batch_size=8)
    assert other["other_layer"] > 0
    assert other["lowest_cosine"] < 0.99


def test_the_command(folder: Path, tmp_path: Path) -> None:
    texts, pairs, output = tmp_path / "texts.txt", tmp_path / "pairs.csv", tmp_path / "parity.json"
    texts.write_text("\n".join(TEXTS))
    rows = [f"{first},{second},{i % 5}" for i, (first, second) in enumerate(itertools.pairwise(TEXTS))]
    pairs.write_text("\n".join(["sentence1,sentence2,score", *rows]))
    arguments = ["parity", "--model", str(folder), "--data", str(texts), "--limit", "40"]
    assert main([*arguments, "--pairs", str(pairs), "--output", str(output)]) == 0
    figures = json.loads(output.read_text())["figures"]
    assert set(figures) == {"torch", "onnx", "onnx-single", "onnx-int8", "onnx-single-int8"}
    for name in ("torch", "onnx", "onnx-single"):
        assert figures[name]["other_layer"] == 0
        assert figures[name]["spearman"] == pytest.approx(figures["torch"]["spearman"], abs=1e-6)
    assert np.isfinite(figures["onnx-int8"]["spearman"])


def test_files_that_are_missing_are_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = eval_toys.save_toy(tmp_path / "bare", load_encoder(str(folder)).model)
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS))
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("sentence1,sentence2,score\na cat,the dog,1\nthe dog,a dog,3\n")
    assert main(["parity", "--model", str(bare), "--data", str(texts), "--pairs", str(pairs)]) == 2
    assert "python -m leap.runtime export" in capsys.readouterr().err
