"""ONNX files and the encoder over them, held to `LeapModel` on a tiny random model."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import eval_toys
import numpy as np
import onnxruntime
import pytest

from configuration_leap import LeapConfig
from leap.runtime import LeapEncoder
from leap.runtime.__main__ import main
from leap.runtime.checkpoint import max_tokens
from leap.runtime.rule import resolve
from modeling_leap import LeapModel

WORDS = eval_toys.WORDS
TEXTS = [" ".join(WORDS[i % 20 : i % 20 + 1 + i % 7]) for i in range(90)]
RULES = [
    {},
    {"exit_threshold": None},
    {"exit_threshold": 0.7, "min_exit_layer": 2},
    {"exit_threshold": [None, 0.3, None, 0.5, 0.6, None]},
    {"exit_threshold": -0.9, "min_exit_layer": 5},
]


@pytest.fixture(scope="module", params=[1, 2], ids=["patience 1", "patience 2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with its ONNX files, cut after layer 3."""
    import torch

    torch.manual_seed(0)
    config = LeapConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=6, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=40, initializer_range=0.2, min_exit_layer=3,
        exit_threshold={1: 0.5, 2: 0.2}[request.param], exit_patience=request.param,
    )  # fmt: skip
    path = eval_toys.save_toy(tmp_path_factory.mktemp("model"), LeapModel(config).eval())
    assert main(["export", "--model", str(path), "--output", str(path / "onnx")]) == 0
    return path


@pytest.mark.parametrize("runtime", ["onnx", "onnx-single"])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_same_as_torch(folder: Path, runtime: str, rule: dict[str, object]) -> None:
    encoder = LeapEncoder.from_pretrained(folder, runtime=runtime, threads=1)
    if min(rule.get("min_exit_layer", 3), 3) <= encoder.config["exit_patience"]:
        pytest.skip("l_min lies above k")
    model = LeapEncoder.from_pretrained(folder, runtime="torch")
    expected, layers = model.encode(TEXTS, return_exit_layers=True, **rule)
    found, found_layers = encoder.encode(TEXTS, batch_size=7, return_exit_layers=True, **rule)
    np.testing.assert_array_equal(found_layers, layers)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    if rule == {}:
        assert len(set(layers)) > 1, "toy texts have to leave at several layers"


def test_int8_is_near(folder: Path) -> None:
    full = [
        LeapEncoder.from_pretrained(folder, runtime=name, threads=1).encode(TEXTS, exit_threshold=None)
        for name in ("onnx", "onnx-int8", "onnx-single-int8", "onnx-flat", "onnx-flat-int8")
    ]
    np.testing.assert_allclose(full[3], full[0], atol=1e-5)
    for found in (full[1], full[2], full[4]):
        assert (found * full[0]).sum(axis=1).min() > 0.99


def test_single_file_defaults_and_batches(folder: Path) -> None:
    session = onnxruntime.InferenceSession(folder / "onnx" / "model_exits.onnx")
    encoder = LeapEncoder.from_pretrained(folder, runtime="onnx-single", threads=1)
    ids = np.array([encoder._tokenizer.encode(text).ids for text in ("a cat", "the dog")])
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    _, together = session.run(None, feed)
    alone = encoder.encode(["a cat", "the dog"], return_exit_layers=True)[1]
    assert together[0] == together[1] >= alone.max()
    one = {name: array[:1] for name, array in feed.items()}
    embedding, layer = session.run(None, one)
    assert layer[0] == alone[0] and embedding.shape == (1, 32)


def test_shapes_streams_and_threads(folder: Path) -> None:
    encoder = LeapEncoder.from_pretrained(folder, threads=1)
    assert encoder.encode([]).shape == (0, 32)
    expected = encoder.encode(TEXTS)
    assert expected.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(TEXTS[3]), expected[3], atol=1e-5)
    np.testing.assert_allclose(encoder.encode(iter(TEXTS), batch_size=1), expected, atol=1e-5)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(encoder.encode, [TEXTS] * 4):
            np.testing.assert_allclose(found, expected, atol=1e-5)

    read = []
    endless = (read.append(0) or "a cat sat" for _ in iter(int, 1))
    assert len(next(encoder.encode_stream(endless, batch_size=2)).embeddings) == len(read) == 128


def test_errors_are_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = LeapEncoder.from_pretrained(folder)
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: LeapEncoder.from_pretrained(folder, runtime="tpu"), "runtime must be one of"),
        (lambda: LeapEncoder.from_pretrained(folder, threads=0), "threads must be"),
        (lambda: LeapEncoder.from_pretrained("nowhere"), "neither a folder nor a Hub id"),
        (lambda: encoder.encode("a", exit_threshold=1.5), "exit_threshold must be"),
        (lambda: encoder.encode("a", batch_size=0), "batch_size must be"),
    ]
    for call, message in wrong:
        with pytest.raises(ValueError, match=message):
            call()
    (tmp_path / "keep.txt").write_text("x")
    assert main(["export", "--model", str(folder), "--output", str(tmp_path)]) == 2
    assert "keep.txt" in capsys.readouterr().err and (tmp_path / "keep.txt").exists()


def test_missing_and_stale_files(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ValueError, match=r"python -m leap\.runtime export"):
        LeapEncoder.from_pretrained(tmp_path)
    (tmp_path / "onnx").symlink_to(folder / "onnx")
    with (tmp_path / "model.safetensors").open("ab") as file:
        file.write(b" ")
    with pytest.raises(ValueError, match="other weights"):
        LeapEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("theta", [0.5, None, "config", [0.1, None, 1.0, 0.2, 0.3, 0.4], [0.5], 1.5, True])
@pytest.mark.parametrize("first", [None, 1, 2, 4, 6, 7])
@pytest.mark.parametrize("patience", [1, 2])
def test_rule_is_that_of_the_model(theta: object, first: int | None, patience: int) -> None:
    config = LeapConfig(num_hidden_layers=6, exit_threshold=0.9, exit_patience=patience)
    try:
        thetas, lowest, _ = config.resolve_exit_rule(theta, first)
    except ValueError as error:
        with pytest.raises(ValueError) as found:
            resolve(config.to_dict(), theta, first)
        assert str(found.value) == str(error)
        return
    thetas = thetas if isinstance(thetas, list) else [thetas] * 6
    expected = {n: thetas[n - 1] for n in range(lowest, 6) if thetas[n - 1] is not None}
    assert resolve(config.to_dict(), theta, first).exits == expected


def test_serves_without_torch(folder: Path, repo_root: Path) -> None:
    program = f"""
import sys
for name in ("torch", "transformers", "onnx", "huggingface_hub", "tqdm", "safetensors"):
    sys.modules[name] = None
from leap.runtime import LeapEncoder
print(LeapEncoder.from_pretrained({str(folder)!r}, threads=1).encode("a cat").shape)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=repo_root, capture_output=True, text=True)
    assert done.stdout.strip() == "(32,)", done.stderr


def test_a_folder_takes_the_arguments_of_a_hub_id(folder: Path) -> None:
    pinned = LeapEncoder.from_pretrained(folder, revision="COMMIT", threads=1)  # as transformers has it
    np.testing.assert_array_equal(
        pinned.encode(TEXTS[:3]), LeapEncoder.from_pretrained(folder, threads=1).encode(TEXTS[:3])
    )


def test_length_is_the_published_one_wherever_it_is_kept(tmp_path: Path) -> None:
    config = {"max_position_embeddings": 40}
    assert max_tokens(tmp_path, config) == 40
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 1e30}')  # as transformers has none
    assert max_tokens(tmp_path, config) == 40
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 30}')
    assert max_tokens(tmp_path, config) == 30
    (tmp_path / "sentence_bert_config.json").write_text('{"transformer_task": "feature-extraction"}')
    assert max_tokens(tmp_path, config) == 30
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 20}')
    assert max_tokens(tmp_path, config) == 20
