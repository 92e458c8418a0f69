"""The encoder over the ONNX file, held to `LeapModel`."""

import copy
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from configuration_leap import LeapConfig
from leap.encode.encoder import encode, load_encoder
from leap.runtime import LeapEncoder
from leap.runtime.folder import max_tokens


@pytest.fixture
def encoder(folder: Path) -> LeapEncoder:
    return LeapEncoder.from_pretrained(folder, threads=1)


RULES = [
    {},
    {"exit_threshold": None},
    {"exit_threshold": -1},
    {"exit_threshold": [0.3, None, None, None, None, None]},
    {"exit_threshold": np.array([0.3, 0.9, 0.9, 0.9, 0.9, 0.9])},
    {"exit_threshold": (None,) * 6},
    {"exit_threshold": np.float32(0.3)},
]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_same_as_torch(
    encoder: LeapEncoder, folder: Path, texts: list[str], rule: dict[str, Any], batch_size: int
) -> None:
    expected = encode(load_encoder(str(folder), device="cpu"), texts, **rule)
    found, layers = encoder.encode(
        texts, batch_size, normalize_embeddings=False, return_exit_layers=True, **rule
    )
    assert_array_equal(layers, expected.exit_layers)
    assert_allclose(found, expected.embeddings, atol=1e-5)
    if rule == {}:
        assert set(layers) == {1, 6}, "some texts have to leap, and some not"


def test_a_pass_takes_few_tokens_and_gives_the_same(
    encoder: LeapEncoder, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = encoder.encode(texts)
    passes: list[tuple[int, int]] = []
    run = encoder._run
    monkeypatch.setattr(
        encoder, "_run", lambda ids, theta: passes.append((len(ids), len(ids[0]))) or run(ids, theta)
    )
    monkeypatch.setattr("leap.encode.passes.PASS_TOKENS", 16)
    assert_allclose(encoder.encode(texts), expected, atol=1e-5)
    assert sum(rows for rows, _ in passes) == len(texts)
    assert all(rows * tokens <= 16 or rows == 1 for rows, tokens in passes)
    assert len(set(passes)) > 2


def test_shapes_streams_and_threads(encoder: LeapEncoder, texts: list[str]) -> None:
    assert encoder.encode([]).shape == (0, 32)
    assert [array.shape for array in encoder.encode([], return_exit_layers=True)] == [(0, 32), (0,)]
    expected, layers = encoder.encode(texts, return_exit_layers=True)
    assert expected.dtype == np.float32 and layers.dtype == np.int64
    assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)
    one, layer = encoder.encode(texts[3], return_exit_layers=True)
    assert_allclose(one, expected[3], atol=1e-5)
    assert layer == layers[3] and isinstance(layer, int)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(encoder.encode, [texts] * 4):
            assert_allclose(found, expected, atol=1e-5)

    blocks = list(encoder.encode_stream(iter(texts), batch_size=1))
    assert [len(block.embeddings) for block in blocks] == [64, 26]
    assert_allclose(np.concatenate([block.embeddings for block in blocks]), expected, atol=1e-5)
    runs = np.concatenate([block.layers_run for block in blocks])
    assert_array_equal(runs, np.where(layers == 6, 6, 3))

    read = []
    endless = (read.append(0) or "a cat sat" for _ in iter(int, 1))
    assert len(next(encoder.encode_stream(endless, batch_size=2)).embeddings) == len(read) == 128


def lines() -> Iterator[str]:
    yield from ("a cat", "the dog sat")


@pytest.mark.parametrize(
    "given",
    [
        ("a cat", "the dog sat"),
        lines,
        np.array(["a cat", "the dog sat"]),
        {"a cat": 1, "the dog sat": 2}.keys,
    ],
    ids=["tuple", "generator", "array", "keys"],
)
def test_iterables_of_strings(encoder: LeapEncoder, given: Any) -> None:
    if callable(given):
        given = list(given()) if not isinstance(given(), Iterator) else given()
    assert_array_equal(encoder.encode(given), encoder.encode(["a cat", "the dog sat"]))


class Frame:
    """What of a DataFrame matters here: to iterate over it gives the names of its columns."""

    columns = ("text",)

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (["a cat", None], TypeError, r"texts\[1\] must be a string, got NoneType"),
        (["a cat", float("nan")], TypeError, r"texts\[1\] must be a string, got float"),
        ([b"a cat"], TypeError, r"texts\[0\] must be a string, got bytes"),
        ([["a cat"], ["a dog"]], TypeError, r"texts\[0\] must be a string, got list"),
        (iter(["a cat"] * 70 + [3]), TypeError, r"texts\[70\] must be a string, got int"),
        (np.array([["a", "b"]]), TypeError, r"texts\[0\] must be a string, got ndarray"),
        (np.array("a cat"), TypeError, "texts must be strings, got ndarray"),
        (b"a cat", TypeError, "texts must be strings, got bytes: decode"),
        (None, TypeError, "texts must be strings, got NoneType"),
        (7, TypeError, "texts must be strings, got int"),
        ({"text": ["a cat"]}, TypeError, "texts must not be a dict, whose keys"),
        (Frame(), TypeError, "texts must not be a Frame, whose keys"),
        ({"a cat", "a dog"}, TypeError, "texts must not be a set, which has no order"),
        (["a cat", "x \ud800 y"], ValueError, r"texts\[1\] has a lone surrogate, '\\ud800', at character 2"),
        ("\udcff", ValueError, r"texts\[0\] has a lone surrogate"),
    ],
    ids=repr,
)
def test_what_is_no_text_is_named(
    encoder: LeapEncoder, given: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as found:
        encoder.encode(given, batch_size=1)
    assert "\n" not in str(found.value)


def test_a_string_is_no_stream(encoder: LeapEncoder) -> None:
    with pytest.raises(TypeError, match="got one string"):
        encoder.encode_stream("a cat")


def test_errors_are_one_line(folder: Path, encoder: LeapEncoder) -> None:
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: LeapEncoder.from_pretrained(folder, precision="int4"), "precision must be one of"),
        (lambda: LeapEncoder.from_pretrained(folder, threads=0), "threads must be"),
        (lambda: LeapEncoder.from_pretrained("nowhere"), "neither a folder nor a Hub id"),
        (lambda: encoder.encode("a", batch_size=0), "batch_size must be"),
        (lambda: encoder.encode("a", batch_size=2.5), "batch_size must be"),
        (lambda: encoder.encode_stream(["a"], exit_threshold=2), "exit_threshold must be"),
    ]
    for call, message in wrong:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("length", [0, 1, 2, 41, -1])
def test_lengths_that_hold_no_text_are_refused(folder: Path, length: int) -> None:
    with pytest.raises(ValueError, match=rf"max_length must be in \[3, 40\], got {length}"):
        LeapEncoder.from_pretrained(folder, max_length=length)


def test_the_shortest_length_tells_texts_apart(folder: Path) -> None:
    encoder = LeapEncoder.from_pretrained(folder, threads=1, max_length=3)
    found = encoder.encode(["cat " * 30, "cat", "dog"])
    assert_allclose(found[0], found[1], atol=1e-6)
    assert np.abs(found[1] - found[2]).max() > 0.01


@pytest.mark.parametrize(
    "theta", [1.5, True, "high", [0.5], [0.5] * 5 + ["a"], float("nan"), np.zeros(3), {}]
)
def test_thresholds_are_refused_as_the_model_does(encoder: LeapEncoder, theta: object) -> None:
    with pytest.raises(ValueError) as expected:
        LeapConfig(num_hidden_layers=6).resolve_exit_rule(theta)
    with pytest.raises(ValueError) as found:
        encoder.encode("a", exit_threshold=theta)
    assert str(found.value) == str(expected.value)


def copies(encoder: LeapEncoder) -> list[LeapEncoder]:
    return [pickle.loads(pickle.dumps(encoder)), copy.copy(encoder), copy.deepcopy(encoder)]  # noqa: S301


def test_copies_and_pickles(folder: Path, texts: list[str]) -> None:
    encoder = LeapEncoder.from_pretrained(folder, precision="int8", threads=1, max_length=4)
    for made in copies(encoder):
        assert_array_equal(made.encode(texts), encoder.encode(texts))


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_workers(folder: Path, texts: list[str], method: str) -> None:
    encoder = LeapEncoder.from_pretrained(folder, threads=2)
    expected = encoder.encode(texts)
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        assert_allclose(pool.submit(encoder.encode, texts).result(timeout=120), expected, atol=1e-6)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_that_inherits_it(folder: Path, texts: list[str]) -> None:
    encoder = LeapEncoder.from_pretrained(folder, threads=2)
    expected = encoder.encode(texts)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    # Nothing is pickled on the way in: the child has the parent's encoder, whose threads it has not.
    worker = context.Process(target=lambda: queue.put(encoder.encode(texts)))
    worker.start()
    worker.join(timeout=120)
    assert worker.exitcode == 0
    assert_allclose(queue.get(), expected, atol=1e-6)


def link(folder: Path, to: Path, *names: str) -> None:
    for name in names:
        (to / name).symlink_to(folder / name)


def test_missing_and_stale_files(folder: Path, tmp_path: Path) -> None:
    link(folder, tmp_path, "tokenizer.json")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ValueError, match=r"has no onnx/model.onnx: .*python -m leap\.runtime export"):
        LeapEncoder.from_pretrained(tmp_path)
    link(folder, tmp_path, "onnx")
    LeapEncoder.from_pretrained(tmp_path)
    with (tmp_path / "model.safetensors").open("ab") as file:
        file.write(b" ")
    with pytest.raises(ValueError, match="other weights"):
        LeapEncoder.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()  # nobody needs them to encode
    LeapEncoder.from_pretrained(tmp_path)


def test_the_threshold_is_that_of_config_json(folder: Path, tmp_path: Path, texts: list[str]) -> None:
    """A calibration writes it there, and need not export again; another test or landing has to."""
    link(folder, tmp_path, "tokenizer.json", "onnx")
    config = json.loads((folder / "config.json").read_text())
    for theta, layer in ((-1.0, 1), (None, 6)):
        (tmp_path / "config.json").write_text(json.dumps(config | {"exit_threshold": theta}))
        _, layers = LeapEncoder.from_pretrained(tmp_path).encode(texts, return_exit_layers=True)
        assert set(layers) == {layer}
    for change in ({"exit_threshold": 7}, {"landing_layer": 4}, {"exit_patience": 2}):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=r"exit_threshold must be|another exit rule"):
            LeapEncoder.from_pretrained(tmp_path)


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
    assert done.stderr == ""


def test_a_folder_takes_the_arguments_of_a_hub_id(
    folder: Path, encoder: LeapEncoder, texts: list[str]
) -> None:
    pinned = LeapEncoder.from_pretrained(folder, revision="COMMIT", threads=1)  # as transformers has it
    assert_array_equal(pinned.encode(texts[:3]), encoder.encode(texts[:3]))


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


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
@pytest.mark.parametrize(("given", "count"), [(None, 1), (2, 2)])
def test_threads_are_those_the_process_may_use(folder: Path, given: int | None, count: int) -> None:
    code = (
        "import os, sys; from leap.runtime import LeapEncoder; "
        "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
        "encoder = LeapEncoder.from_pretrained(sys.argv[1], threads=int(sys.argv[2]) or None); "
        "print(encoder._session.get_session_options().intra_op_num_threads)"
    )
    command = [sys.executable, "-c", code, str(folder), str(given or 0)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(found) == (count if (os.cpu_count() or 1) > 1 or given else 0)
