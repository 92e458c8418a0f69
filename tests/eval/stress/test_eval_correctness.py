"""Fast ways beside one text at a time: what agrees, what is counted, what is excused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_data import LEAP_RULE, PAIRS, RULE, save_tiny

from eval.__main__ import main
from eval.stress import correctness
from eval.stress.correctness import Reference, Way, compare, load_texts, measure, one_at_a_time, spread
from leap.encode.encoder import Encoder, Encoding, encode, load_encoder
from leap.encode.paths import encode_paths
from leap.errors import UsageError
from modeling_leap import LeapModel

MakeModel = Callable[..., LeapModel]
TEXTS = [text for pair in PAIRS for text in pair[:2]]


@pytest.fixture
def encoder(make_tiny_model: MakeModel, tmp_path: Path) -> Encoder:
    """A tiny model whose texts leave at several layers."""
    return load_encoder(str(save_tiny(tmp_path / "tiny", make_tiny_model(**RULE))), device="cpu")


def test_reference_is_the_rule_applied_to_every_text(encoder: Encoder) -> None:
    reference = one_at_a_time(encoder, TEXTS)
    paths, theta = encode_paths(encoder, TEXTS, batch_size=1), RULE["exit_threshold"]
    expected = np.append(paths.layers, encoder.depth)[paths.taken(theta)]
    assert reference.encoding.exit_layers.tolist() == expected.tolist()
    assert len(set(expected)) >= 3
    np.testing.assert_allclose(reference.encoding.embeddings, paths.at(theta), atol=1e-5)
    assert not reference.tied.any()
    # With the threshold next to a cosine of one text, that text and no other is in the band.
    encoder.model.config.exit_threshold = float(paths.cosines[4, 0]) + 5e-5
    assert one_at_a_time(encoder, TEXTS).tied.nonzero()[0].tolist() == [4]


def test_ties_are_those_of_the_test_of_a_landing_model(make_tiny_model: MakeModel, tmp_path: Path) -> None:
    model = make_tiny_model(**LEAP_RULE)
    encoder = load_encoder(str(save_tiny(tmp_path / "leaping", model)), device="cpu")
    reference = one_at_a_time(encoder, TEXTS)
    found = encode(encoder, TEXTS, batch_size=5)
    assert reference.encoding.exit_layers.tolist() == found.exit_layers.tolist()
    assert set(found.exit_layers) == {1, 6} and not reference.tied.any()
    with torch.inference_mode():
        states = model(**encoder.tokenizer(TEXTS[4], return_tensors="pt"), output_layer_embeddings=True)
    now, before = states.layer_embeddings[0, 1], states.layer_embeddings[0, 0]
    encoder.model.config.exit_threshold = float(torch.cosine_similarity(now, before, dim=0)) - 5e-5
    assert one_at_a_time(encoder, TEXTS).tied.nonzero()[0].tolist() == [4]


def test_batches_agree(encoder: Encoder) -> None:
    reference = one_at_a_time(encoder, TEXTS)
    found = correctness.in_company(encoder, TEXTS, 5, None)
    figures = compare(reference, found)
    assert figures["other_exit_layer"] == figures["other_embedding"] == 0
    assert figures["largest_difference"] < 1e-5
    assert figures["mean_exit_layer"] == reference.encoding.exit_layers.mean()


def test_differences_are_counted_ties_apart() -> None:
    reference = Reference(Encoding(np.ones((6, 2)), np.full(6, 3)), np.array([0, 0, 0, 1, 1, 0], dtype=bool))
    found = Encoding(np.ones((6, 2)), np.array([3, 4, 3, 2, 3, 3]))
    found.embeddings[2, 1] = np.nan
    found.embeddings[4, 0] += 2e-4
    found.embeddings[5, 0] += 5e-5
    figures = compare(reference, found)
    assert figures["other_exit_layer"] == 1
    assert figures["other_exit_layer_in_tie_band"] == 1
    assert figures["other_embedding"] == 2


def test_spread_of_other_weights() -> None:
    reference = Reference(Encoding(np.eye(4), np.full(4, 3)), np.zeros(4, dtype=bool))
    found = Encoding(np.eye(4), np.array([3, 4, 2, 3]))
    found.embeddings[3] = [0, 0, 1, 1]
    figures = spread(reference, found)
    assert figures["layers_later"] == {"-1": 1, "0": 2, "1": 1}
    assert figures["cosine_lowest"] == pytest.approx(0.5**0.5)
    assert figures["cosine_mean"] == pytest.approx((3 + 0.5**0.5) / 4)
    assert set(figures["cosine_quantiles"]) == {"0.01", "0.05", "0.5"}


def test_a_wrong_path_is_found(encoder: Encoder) -> None:
    def swapped(texts: list[str]) -> Encoding:
        found = encode(encoder, texts)
        return Encoding(found.embeddings[::-1], found.exit_layers)

    ways = {
        "swapped": Way(swapped),
        "later": Way(lambda texts: encode(encoder, texts, min_exit_layer=6)),
    }
    paths = measure(encoder, TEXTS, ways)["paths"]
    assert paths["swapped"]["other_embedding"] == len(TEXTS)
    assert paths["later"]["other_exit_layer"] > 0
    # At full depth all leave last: then the second path is right, and the first one still wrong.
    encoder.model.config.exit_threshold = None
    paths = measure(encoder, TEXTS, ways)["paths"]
    assert paths["swapped"]["other_embedding"] == len(TEXTS)
    assert paths["later"]["other_exit_layer"] == paths["later"]["other_embedding"] == 0


def test_texts_of_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text("".join(f"{name} {n}\n" for n in range(9)))
    files = [str(tmp_path / f"{name}.txt") for name in "abc"]
    assert load_texts(files, 5).texts == ["a 0", "a 1", "b 0", "b 1", "c 0"]
    with pytest.raises(UsageError, match="--data: holds 27 texts of 99: give more, or lower --texts"):
        load_texts(files, 99)
    with pytest.raises(UsageError, match=r"--data: .*none\.txt' holds no \.txt, \.csv"):
        load_texts([str(tmp_path / "none.txt")], 3)
    monkeypatch.setenv("LEAP_DATA", str(tmp_path))
    with pytest.raises(UsageError, match="--data: give text files, or set LEAP_DATA"):
        load_texts([], 3)


def missing(*_arguments: object) -> Way:
    raise UsageError("onnx: pip install it")


def test_command(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    output = tmp_path / "out.json"
    command = ["correctness", "--model", encoder.name, "--data", str(tmp_path / "texts.txt")]
    command += ["--texts", "12", "--output", str(output), "--paths"]
    monkeypatch.setitem(correctness.PATHS, "missing", missing)
    assert main([*command, "missing"]) == 2
    assert "--paths: none of them can run here: onnx: pip install it" in capsys.readouterr().err
    assert main([*command, "batches", "nowhere"]) == 2
    assert "--paths: 'nowhere' is not one of batches, onnx" in capsys.readouterr().err
    assert not output.exists()
    assert main([*command, "missing", "batches"]) == 0
    figures: dict[str, Any] = json.loads(output.read_text())["figures"]
    assert set(figures["paths"]) == {"batches"}
    assert figures["left_out"] == {"missing": "onnx: pip install it"}
    assert figures["paths"]["batches"]["largest_difference"] < 1e-5
    assert sum(figures["exit_histogram"]) == figures["texts"] == 12
    assert "missing: left out, onnx: pip install it" in capsys.readouterr().out
