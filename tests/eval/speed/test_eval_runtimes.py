"""The encoder of runtime/ as the evaluations call it."""

import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_data import PAIRS

from eval.speed.runtimes import load_runtime
from eval.stress.correctness import compare, one_at_a_time
from eval.stress.endurance import endure, onnx_encoder
from leap.encode.encoder import load_encoder
from leap.errors import UsageError

TEXTS = [text for pair in PAIRS for text in pair[:2]]


def test_agrees_with_one_text_at_a_time(exported: Path) -> None:
    reference = one_at_a_time(load_encoder(str(exported), device="cpu"), TEXTS)
    assert set(reference.encoding.exit_layers) == {1, 6}
    figures = compare(reference, load_runtime(str(exported))(TEXTS, {}, 5))
    assert figures["other_exit_layer"] == figures["other_embedding"] == 0
    assert figures["largest_difference"] < 1e-5
    full = load_runtime(str(exported), "int8")(TEXTS, {"exit_threshold": None}, 5)
    assert full.exit_layers.tolist() == [6] * len(TEXTS)
    assert np.linalg.norm(full.embeddings, axis=1).min() > 1.5  # not normalised, as those of torch


def test_threads_at_once(exported: Path) -> None:
    figures = endure({"onnx": onnx_encoder(str(exported), 1)}, TEXTS, seconds=1, threads=4).figures()
    assert figures["errors"] == []
    assert figures["kept"]["drift"]
    assert figures["calls"]["onnx"] > 10


def test_what_is_missing_is_named(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (exported / "onnx" / "model_quantized.onnx").unlink()
    with pytest.raises(UsageError, match=r"^onnx: .*has no onnx/model_quantized\.onnx"):
        load_runtime(str(exported), "int8")
    monkeypatch.setitem(sys.modules, "leap.runtime", None)
    with pytest.raises(UsageError, match=r"^onnx: .*pip install onnxruntime"):
        load_runtime(str(exported))
