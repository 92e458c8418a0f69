"""The ONNX files beside `LeapModel`, fed as other programs feed them: without this repository's code."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from leap.runtime.__main__ import main
from modeling_leap import LeapModel

SHAPES = ("release", "patience 2", "p_0, patience 2", "3 layers")
FILES = {
    f"model{depth}{precision}.onnx" for depth in ("", "_full", "_leap") for precision in ("", "_quantized")
}


def open_file(folder: Path, name: str = "model") -> onnxruntime.InferenceSession:
    """As a program that knows nothing of LEAP opens it: ONNX Runtime's own settings."""
    return onnxruntime.InferenceSession(folder / "onnx" / f"{name}.onnx")


def batch(rows: int = 16, width: int = 12, seed: int = 0) -> dict[str, np.ndarray]:
    """`rows` rows of 1 to `width` tokens, padded on the right, of both types of token."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, width + 1, rows)
    lengths[0] = width
    mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
    ids = random.integers(1, 99, (rows, width)) * mask
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": random.integers(0, 2, ids.shape) * mask,
    }


def in_torch(folder: Path, feed: dict[str, Any], **rule: Any) -> dict[str, np.ndarray]:
    model = LeapModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        found = model(**{name: torch.from_numpy(array) for name, array in feed.items()}, **rule)
    return {name: tensor.numpy() for name, tensor in found.items()}


def run(session: onnxruntime.InferenceSession, feed: dict[str, Any]) -> dict[str, np.ndarray]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feed), strict=True))


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], mask: np.ndarray) -> None:
    for name in ("exit_layer", "layers_run"):
        if name in found:
            assert_array_equal(found[name], expected[name])
    assert_allclose(found["sentence_embedding"], expected["sentence_embedding"], atol=1e-5)
    states = [side["last_hidden_state"] * mask[:, :, None] for side in (found, expected)]
    assert_allclose(*states, atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_batch_is_that_of_torch(tiny_models: Callable[[str], Path], shape: str) -> None:
    folder = tiny_models(shape)
    session = open_file(folder)
    feed = batch()
    found = run(session, feed)
    assert_same(found, in_torch(folder, feed), feed["attention_mask"])
    assert len(set(found["exit_layer"])) == 2, "some rows have to leap, and some not"

    del feed["token_type_ids"]
    assert_same(run(session, feed), in_torch(folder, feed), feed["attention_mask"])
    for theta in (-1.0, 0.3, 2.0):  # a caller's own; 2: nobody
        given = {**feed, "exit_threshold": np.array([theta], np.float32)}
        expected = in_torch(folder, feed, exit_threshold=None if theta == 2 else theta)
        assert_same(run(session, given), expected, feed["attention_mask"])


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_decide_one_by_one(tiny_models: Callable[[str], Path], shape: str) -> None:
    session = open_file(tiny_models(shape))
    feed = batch(rows=40)
    together = run(session, feed)
    for size in (1, 2, 7):
        for start in range(0, 40, size):
            rows = slice(start, start + size)
            width = feed["attention_mask"][rows].sum(axis=1).max()
            found = run(session, {name: array[rows, :width] for name, array in feed.items()})
            assert_array_equal(found["exit_layer"], together["exit_layer"][rows])
            assert_allclose(found["sentence_embedding"], together["sentence_embedding"][rows], atol=1e-5)


def test_a_threshold_for_each_row(folder: Path) -> None:
    feed = batch()
    thetas = np.where(np.arange(16) % 3 == 0, -1, 2).astype(np.float32)
    found = run(open_file(folder), {**feed, "exit_threshold": thetas})
    assert_array_equal(found["exit_layer"], np.where(np.arange(16) % 3 == 0, 1, 6))
    assert_array_equal(found["layers_run"], np.where(np.arange(16) % 3 == 0, 3, 6))


def test_rows_without_tokens_and_masks_of_other_numbers(folder: Path) -> None:
    session = open_file(folder)
    feed = batch()
    feed["attention_mask"][3] = 0
    found = run(session, feed)
    assert_same(found, in_torch(folder, feed), feed["attention_mask"])
    assert not found["sentence_embedding"][3].any() and found["exit_layer"][3] == 6
    tripled = run(session, {**feed, "attention_mask": 3 * feed["attention_mask"]})
    assert_array_equal(tripled["sentence_embedding"], found["sentence_embedding"])


@pytest.mark.parametrize(("name", "theta"), [("model_full", None), ("model_leap", -1.0)])
@pytest.mark.parametrize("shape", SHAPES)
def test_fixed_depths(tiny_models: Callable[[str], Path], shape: str, name: str, theta: float | None) -> None:
    folder, feed = tiny_models(shape), batch()
    found = run(open_file(folder, name), feed)
    assert_same(found, in_torch(folder, feed, exit_threshold=theta), feed["attention_mask"])
    assert set(found) == {"last_hidden_state", "sentence_embedding"}


@pytest.mark.parametrize(
    ("name", "theta"), [("model", 2.0), ("model", -1.0), ("model_full", None), ("model_leap", None)]
)
def test_int8_is_near(folder: Path, name: str, theta: float | None) -> None:
    feed = batch() | ({} if theta is None else {"exit_threshold": np.array([theta], np.float32)})
    pair = [
        run(open_file(folder, name + suffix), feed)["sentence_embedding"] for suffix in ("", "_quantized")
    ]
    exact, found = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in pair)
    assert (exact * found).sum(axis=1).min() > 0.99


def test_what_other_programs_see(folder: Path) -> None:
    """fastembed, transformers.js and sentence-transformers feed exactly what the session says it needs."""
    session = open_file(folder)
    assert [node.name for node in session.get_inputs()] == ["input_ids", "attention_mask"]
    optional = {node.name: node.type for node in session.get_overridable_initializers()}
    assert optional == {"token_type_ids": "tensor(int64)", "exit_threshold": "tensor(float)"}
    outputs = [node.name for node in session.get_outputs()]
    assert outputs == ["last_hidden_state", "sentence_embedding", "exit_layer", "layers_run"]


@pytest.mark.parametrize("name", ["model.onnx", "model_quantized.onnx"])
def test_loading_fuses_no_slow_normalisation(folder: Path, tmp_path: Path, name: str) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    onnxruntime.InferenceSession(folder / "onnx" / name, options)

    def kinds(graph: onnx.GraphProto) -> Iterator[str]:
        for node in graph.node:
            yield node.op_type
            for attribute in node.attribute:
                yield from kinds(attribute.g)

    found = set(kinds(onnx.load(options.optimized_model_filepath).graph))
    assert "LayerNormalization" in found and "SkipLayerNormalization" not in found


def test_files_and_weights_once(folder: Path) -> None:
    assert {path.name for path in (folder / "onnx").iterdir()} == FILES
    # All weights but BERT's: not a second copy of a layer for each branch.
    sizes = {name: (folder / "onnx" / f"{name}.onnx").stat().st_size for name in ("model", "model_full")}
    assert sizes["model"] < sizes["model_full"] + 10_000


def test_no_threshold_in_the_config_is_full_depth(export_tiny: Callable[..., Path]) -> None:
    folder = export_tiny(landing_layer=5, min_exit_layer=1, max_exit_layer=1, exit_threshold=None)
    feed = batch()
    found = run(open_file(folder), feed)
    assert set(found["exit_layer"]) == {6}
    leapt = run(open_file(folder), {**feed, "exit_threshold": np.array([-1], np.float32)})
    assert set(leapt["exit_layer"]) == {1}


def test_a_list_of_thresholds_may_leave_one_test(export_tiny: Callable[..., Path]) -> None:
    folder = export_tiny(
        landing_layer=6, exit_threshold=[None, -1.0, None, None, None, None], min_exit_layer=1
    )
    assert set(run(open_file(folder), batch())["exit_layer"]) == {2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"landing_layer": None, "min_exit_layer": 3, "max_exit_layer": None},
            "texts may leave after layers 3, 4, 5, and",
        ),
        ({"landing_layer": 5, "max_exit_layer": None}, "texts may leave after layers 1, 2, 3, and"),
        ({"hidden_act": "relu"}, "hidden_act must be 'gelu'"),
        ({"exit_threshold": 7}, "exit_threshold must be"),
    ],
)
def test_what_one_graph_cannot_say_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], message: str
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        os.link(folder / name, tmp_path / name)
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    assert main(["export", "--model", str(tmp_path), "--output", str(tmp_path / "onnx")]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said and len(said.splitlines()) == 1
    assert not (tmp_path / "onnx").exists()


def test_a_folder_of_something_else_is_kept(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "keep.txt").write_text("x")
    assert main(["export", "--model", str(folder), "--output", str(tmp_path)]) == 2
    assert "keep.txt" in capsys.readouterr().err and (tmp_path / "keep.txt").exists()
