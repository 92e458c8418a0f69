"""`torch_path`: overhead without the layers' work, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_data
import torch

from eval.__main__ import main
from eval.speed import torch_path
from eval.speed.timing import tokenize
from eval.speed.torch_path import evaluate_torch_path, play, without_layers
from leap.encode.encoder import Encoder
from leap.errors import UsageError
from modeling_leap import LeapModel

TEXTS = [text for pair in tiny_data.PAIRS for text in pair[:2]]
LONG = [" ".join(tiny_data.WORDS[i % 20 :][:8]) for i in range(40)]
RULE = {"exit_threshold": "config"}


FORMS = [tiny_data.RULE, {"exit_threshold": 0.56, "landing_layer": 5, "min_exit_layer": 1}]


@pytest.fixture(params=FORMS, ids=["paper", "landing"])
def encoder(make_tiny_model: Callable[..., LeapModel], request: pytest.FixtureRequest) -> Encoder:
    return Encoder("tiny", make_tiny_model(**request.param), tiny_data.tiny_tokenizer(), 40)


def test_without_layers_gives_the_same(encoder: Encoder) -> None:
    bare = without_layers(encoder.model)
    left = set()
    with torch.inference_mode():
        for text in TEXTS:
            batch = tokenize(encoder, [text])
            full = encoder.model(**batch, exit_threshold=None, output_hidden_states=True)
            play(bare, full.hidden_states[1:])
            expected, found = encoder.model(**batch), bare(**batch)
            assert torch.equal(found.exit_layer, expected.exit_layer)
            if encoder.model.config.landing_layer is None:  # else played states are those of full depth
                assert torch.equal(found.sentence_embedding, expected.sentence_embedding)
            left |= set(found.exit_layer.tolist())
    assert len(left) > 1  # else the exit rule was not followed, only met


def test_figures(encoder: Encoder) -> None:
    figures = evaluate_torch_path(encoder, LONG, rule=RULE, rounds=10)
    assert figures["exit_threshold"] == encoder.model.config.exit_threshold
    single = figures["single"]
    assert single["texts"] == 10
    assert 2 <= single["mean_layers_run"] <= 6
    for name in ("exits", "full_depth"):
        assert 0 < single[name]["outside_layers_ms"] < single[name]["forward_ms"]
        assert 0 < single[name]["outside_share"] < 1
    assert len(single["steps_ms"]) == 7
    assert figures["compiled"] is None
    json.dumps(figures, allow_nan=False)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPU")
def test_compiled_layers(encoder: Encoder) -> None:
    figures = torch_path.measure_compiled(encoder, TEXTS, RULE)
    assert figures["compile_seconds"] > 0
    assert figures["exits"]["speedup"] > 0 < figures["full_depth"]["speedup"]
    assert figures["largest_difference"] < 1e-5


def test_what_is_refused(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"^--exit_threshold must be"):
        evaluate_torch_path(encoder, LONG, rule=RULE | {"exit_threshold": 2.0})
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UsageError, match=r"^--compile: there is no C\+\+ compiler 'no-such-compiler'"):
        evaluate_torch_path(encoder, LONG, rule=RULE, compiled=True)


def test_the_command(encoder: Encoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_data.save_tiny(tmp_path / "tiny", encoder.model)
    (tmp_path / "t.txt").write_text("\n".join(LONG))
    before = torch.get_num_threads()
    command = ["torch_path", "--model", str(folder), "--data", str(tmp_path / "t.txt"), "--rounds", "4"]
    try:
        arguments = ["--threads", "1", "--device", "cpu"]
        assert main([*command, *arguments, "--output", str(tmp_path / "out.json")]) == 0
    finally:
        torch.set_num_threads(before)
    figures = json.loads((tmp_path / "out.json").read_text())["figures"]
    assert (figures["threads"], figures["device"]) == (1, "cpu")
    assert "outside the layers" in capsys.readouterr().out
