"""The encoder of runtime/ as the evaluations call it."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_data import LEAP_RULE, PAIRS, save_tiny

from eval.speed.runtimes import load_runtime
from eval.stress.correctness import compare, one_at_a_time
from eval.stress.endurance import endure, onnx_encoder
from leap.encode.encoder import load_encoder
from leap.errors import UsageError
from modeling_leap import LeapModel

MakeModel = Callable[..., LeapModel]
TEXTS = [text for pair in PAIRS for text in pair[:2]]


@pytest.fixture
def folder(make_tiny_model: MakeModel, tmp_path: Path) -> Path:
    """A tiny checkpoint with its ONNX files."""
    pytest.importorskip("onnxruntime")
    export = pytest.importorskip("leap.runtime.export").export
    folder = save_tiny(tmp_path / "tiny", make_tiny_model(**LEAP_RULE))
    export(folder, folder / "onnx")
    return folder


def test_agrees_with_one_text_at_a_time(folder: Path) -> None:
    reference = one_at_a_time(load_encoder(str(folder), device="cpu"), TEXTS)
    assert set(reference.encoding.exit_layers) == {1, 6}
    figures = compare(reference, load_runtime(str(folder))(TEXTS, {}, 5))
    assert figures["other_exit_layer"] == figures["other_embedding"] == 0
    assert figures["largest_difference"] < 1e-5
    full = load_runtime(str(folder), "int8")(TEXTS, {"exit_threshold": None}, 5)
    assert full.exit_layers.tolist() == [6] * len(TEXTS)
    assert np.linalg.norm(full.embeddings, axis=1).min() > 1.5  # not normalised, as those of torch


def test_threads_at_once(folder: Path) -> None:
    figures = endure({"onnx": onnx_encoder(str(folder), 1)}, TEXTS, seconds=1, threads=4).figures()
    assert figures["errors"] == []
    assert figures["kept"]["drift"]
    assert figures["calls"]["onnx"] > 10


def test_what_is_missing_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "onnx" / "model_quantized.onnx").unlink()
    with pytest.raises(UsageError, match=r"^onnx: .*has no onnx/model_quantized\.onnx"):
        load_runtime(str(folder), "int8")
    monkeypatch.setitem(sys.modules, "leap.runtime", None)
    with pytest.raises(UsageError, match=r"^onnx: .*pip install onnxruntime"):
        load_runtime(str(folder))
