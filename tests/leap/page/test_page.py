"""What the page computes and answers, without a browser; its parts in Gradio only where that is installed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tiny_data
import torch

import app
from leap.encode.encoder import Encoder, encode, encode_layers, load_encoder
from leap.errors import UsageError
from leap.page.analysis import (
    MAX_CHARACTERS,
    MAX_TEXTS,
    Rule,
    analyse,
    describe_rule,
    layer_range,
    make_rule,
    split_texts,
    summarise,
)
from leap.page.plot import plot_tests
from leap.page.search import Index, embed_index, main, read_index, read_sentences, search, write_index
from modeling_leap import LeapModel

TEXTS = ["a cat sat on the mat", "the dog ran", "the bird sings in the rain under a tree"]


@pytest.fixture
def encoder(tmp_path: Path, make_tiny_model: Callable[..., LeapModel]) -> Encoder:
    return load_encoder(str(tiny_data.save_tiny(tmp_path / "tiny", make_tiny_model(**tiny_data.RULE))))


def test_a_text_a_line() -> None:
    assert split_texts("  one \n\n \t\ntwo\r\n") == ["one", "two"]


@pytest.mark.parametrize(
    ("pasted", "said"),
    [
        (None, "no text yet"),
        (" \n\t\n", "no text yet"),
        ("x" * (MAX_CHARACTERS + 1), "20,001 characters"),
        ("x\n" * (MAX_TEXTS + 1), f"{MAX_TEXTS + 1} texts"),
    ],
)
def test_what_is_no_list_of_texts_is_said(pasted: str | None, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        split_texts(pasted)


@pytest.fixture
def landing(tmp_path: Path, make_tiny_model: Callable[..., LeapModel]) -> Encoder:
    """A model of the release's form: one test after layer 1, and texts that pass it land in layer 5."""
    rule = {"exit_threshold": 0.5, "min_exit_layer": 1, "max_exit_layer": 1, "landing_layer": 5}
    return load_encoder(str(tiny_data.save_tiny(tmp_path / "landing", make_tiny_model(**rule))))


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def test_layers_and_fidelity_are_the_models_own(encoder: Encoder) -> None:
    found = analyse(encoder, TEXTS, make_rule(encoder))
    left, full = encode(encoder, TEXTS), encode(encoder, TEXTS, exit_threshold=None)
    assert found.layers_run.tolist() == left.exit_layers.tolist()
    assert found.skips.tolist() == [layer < 6 for layer in left.exit_layers]
    assert found.skips.any()
    np.testing.assert_allclose(found.fidelity, cosine(left.embeddings, full.embeddings), atol=1e-5)
    layers = encode_layers(encoder, TEXTS)
    for row, (layer, s) in enumerate(zip(found.tested_at, found.cosines, strict=True)):
        assert s == pytest.approx(cosine(layers[row, layer - 1], layers[row, layer - 2]), abs=1e-5)
        assert (s >= 0.5) == found.skips[row]
        assert layer == found.layers_run[row] or not found.skips[row]
    assert found.tokens.tolist() == [8, 5, 11]
    assert found.full_ms > 0 and found.exits_ms > 0 and found.rounds >= 1


def test_texts_that_leap(landing: Encoder) -> None:
    with torch.inference_mode():
        layers = landing.model(**landing.batch(TEXTS), output_layer_embeddings=True).layer_embeddings
    s = cosine(layers[:, 1].numpy(), layers[:, 0].numpy())
    found = analyse(landing, TEXTS, make_rule(landing, float(np.median(s)) - 1e-6))
    np.testing.assert_allclose(found.cosines, s, atol=1e-5)
    assert found.tested_at.tolist() == [1, 1, 1]
    assert found.skips.tolist() == (s >= np.median(s) - 1e-6).tolist()
    assert found.layers_run.tolist() == [3 if skips else 6 for skips in found.skips]
    assert "**2** of 3 texts skip layers; **4.00** of 6 layers run" in summarise(found, 6)
    assert layer_range(landing) == (1, 1)
    assert describe_rule(make_rule(landing)) == "theta 0.5 at layer 1"


def test_full_depth_tests_nothing(encoder: Encoder) -> None:
    rule = make_rule(encoder, None)
    found = analyse(encoder, TEXTS, rule)
    assert found.tested_at.tolist() == [0, 0, 0] and not found.skips.any()
    assert np.isnan(found.cosines).all()
    assert "full depth" in plot_tests(found, rule).axes[0].texts[0].get_text()


def test_a_long_text_is_cut_and_said_to_be(encoder: Encoder) -> None:
    found = analyse(encoder, ["a cat " * 100, "a cat"], make_rule(encoder))
    assert found.cut == [True, False]
    assert found.tokens.tolist() == [40, 4]
    assert "1 text was longer than the model reads and cut to 40 tokens" in summarise(found, 6)


def test_the_rule_is_the_sliders_or_the_models(encoder: Encoder) -> None:
    assert make_rule(encoder) == Rule(0.5, 2, dict.fromkeys((2, 3, 4, 5), 0.5))
    assert make_rule(encoder, 0.9, 4) == Rule(0.9, 4, {4: 0.9, 5: 0.9})
    with pytest.raises(UsageError, match=r"^exit_threshold must be a number in"):
        make_rule(encoder, 7.0)
    with pytest.raises(UsageError, match=r"^min_exit_layer must be an integer in"):
        make_rule(encoder, 0.9, 0)


def test_a_rule_of_one_threshold_a_layer(encoder: Encoder) -> None:
    encoder.model.config.exit_threshold = [None, 0.1, None, 0.5, 0.6, None]
    rule = make_rule(encoder)
    assert rule.thetas == {2: 0.1, 4: 0.5, 5: 0.6}
    assert describe_rule(rule) == "theta 0.1 at layer 2, 0.5 at layer 4, 0.6 at layer 5"
    assert analyse(encoder, TEXTS, rule).layers_run.tolist() == encode(encoder, TEXTS).exit_layers.tolist()
    assert describe_rule(make_rule(encoder, 0.8, 3)) == "theta 0.8 from layer 3"
    assert describe_rule(make_rule(encoder, None)) == "no early exits, full depth"


def test_time_saved_by_hand(encoder: Encoder) -> None:
    found = analyse(encoder, TEXTS, make_rule(encoder))
    found = replace(found, layers_run=np.array([2, 3, 4]), full_ms=10.0, exits_ms=5.0, rounds=7)
    told = summarise(found, 6)
    assert "**3.00** of 6 layers run on average" in told
    assert "50 % of the time saved; medians of 7 rounds" in told
    assert "no time saved" in summarise(replace(found, exits_ms=11.0), 6)


def test_search_finds_the_text_itself(encoder: Encoder) -> None:
    index = embed_index(encoder, TEXTS)
    for row, text in enumerate(TEXTS):
        hits = search(encoder, index, f" {text} ", make_rule(encoder, None), count=2)
        assert (hits.rows[0], hits.layers_run, hits.judged.tolist()) == (row, 6, [1, 2])
        assert hits.cosines[0] == pytest.approx(1, abs=1e-5)
    with pytest.raises(UsageError, match="no query yet"):
        search(encoder, index, "  ", make_rule(encoder))


def test_ranks_of_full_depth_beside_those_with_exits(encoder: Encoder) -> None:
    left, full = (encode(encoder, TEXTS[:1], exit_threshold=theta).embeddings[0] for theta in (-0.9, None))
    index = Index(["as it left", "as at full depth"], np.array([v / np.linalg.norm(v) for v in (left, full)]))
    hits = search(encoder, index, TEXTS[0], make_rule(encoder, -0.9))
    assert (hits.rows.tolist(), hits.judged.tolist(), hits.layers_run) == ([0, 1], [2, 1], 2)
    assert index.judge == "full depth"


def test_ranks_by_the_teacher_where_it_is_at_hand(
    encoder: Encoder, tmp_path: Path, make_tiny_model: Callable[..., LeapModel]
) -> None:
    teacher = load_encoder(str(tiny_data.save_tiny(tmp_path / "teacher", make_tiny_model(seed=7))))
    index = embed_index(teacher, TEXTS)
    assert index.judge == "all-MiniLM-L6-v2"
    hits = search(encoder, index, TEXTS[2], make_rule(encoder))
    (query,) = encode(teacher, [TEXTS[2]], exit_threshold=None).embeddings
    cosines = cosine(index.vectors, query)
    assert hits.judged.tolist() == [1 + int((cosines > cosines[row]).sum()) for row in hits.rows]
    assert hits.judged[hits.rows.tolist().index(2)] == 1


def test_stored_index_is_of_these_texts(encoder: Encoder, tmp_path: Path) -> None:
    index, path = embed_index(encoder, TEXTS), tmp_path / "index.safetensors"
    write_index(index, path)
    np.testing.assert_allclose(read_index(TEXTS, path).vectors, index.vectors, atol=1e-3)
    with pytest.raises(UsageError, match="of other sentences"):
        read_index(TEXTS[:2], path)
    path.write_bytes(b"torn")
    with pytest.raises(UsageError, match="no vectors that can be read"):
        read_index(TEXTS, path)


def test_the_stored_sentences() -> None:
    texts = read_sentences()
    assert len(texts) == len(set(texts)) == 60
    assert read_index(texts).vectors.shape == (60, 384)


@pytest.mark.real_weights
def test_stored_vectors_are_the_teachers(teacher_path: Path) -> None:
    texts = read_sentences()
    fresh = embed_index(load_encoder(str(teacher_path)), texts).vectors
    np.testing.assert_allclose(read_index(texts).vectors, fresh, atol=1e-3)


def test_one_line_for_a_teacher_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--teacher", "/nowhere"]) == 2
    assert capsys.readouterr().err.startswith("python -m leap.page.search: error: --teacher: '/nowhere'")


@pytest.fixture
def layout() -> ModuleType:
    pytest.importorskip("gradio", reason="pip install -r requirements-app.txt")
    from leap.page import layout

    return layout


def test_fields_in_updates_out(layout: ModuleType, encoder: Encoder) -> None:
    handlers = layout.Handlers(encoder, embed_index(encoder, TEXTS))
    message, results, told, rows, figure = handlers.encode("a cat\nthe dog ran", layout.OWN, 0.9, 3)
    assert not message.visible and results.visible
    assert "of 2 texts skip layers" in told
    assert [row[1] for row in rows] == ["a cat", "the dog ran"]
    assert [row[4] for row in rows] == encode(encoder, ["a cat", "the dog ran"]).exit_layers.tolist()
    assert sum(len(dots.get_offsets()) for dots in figure.axes[0].collections) == 4  # theta and s of each
    *_, rows, figure = handlers.encode("a cat " * 100 + "\n日本 $5 $6", layout.SET, 1.0, 3)
    assert len(rows[0][1]) == 120
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["theta", "full depth"]
    assert rows[0][3:5] == ["no", 6]
    trouble, hits, told = handlers.search("a cat", layout.SET, 1.0, 3)
    assert not trouble.visible and hits.visible
    assert told == "The query ran **6** of 6 layers."


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (("", "own", 0.9, 3), "no text yet"),
        (("a cat", "set", 7.0, 3), "theta must lie between 0 and 1; 7 does not"),
        (("a cat", "set", None, 3), "must be numbers"),
        (("a cat", "set", 0.9, 9), "l_min must be a layer from 1 to 6; 9 is none"),
    ],
)
def test_a_message_for_what_is_wrong(
    layout: ModuleType, encoder: Encoder, fields: tuple[object, ...], said: str
) -> None:
    handlers = layout.Handlers(encoder, embed_index(encoder, TEXTS))
    pasted, which, *sliders = fields
    for handler in (handlers.encode, handlers.search):
        message, results, *_ = handler(pasted, {"own": layout.OWN, "set": layout.SET}[which], *sliders)
        assert message.visible and not results.visible
        assert said in message.value or "no query yet" in message.value


def test_no_stack_trace_for_a_fault_of_ours(
    layout: ModuleType, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "analyse", lambda *_: 1 / 0)
    handlers = layout.Handlers(encoder, embed_index(encoder, TEXTS))
    message, results, *_ = handlers.encode("a cat", layout.OWN, 0.9, 3)
    assert message.value == layout.FAILED and not results.visible


def test_page_is_built_for_a_list_of_thresholds(layout: ModuleType, encoder: Encoder) -> None:
    encoder.model.config.exit_threshold = [None, 0.1, None, 0.5, 0.6, None]
    page = layout.build(encoder, embed_index(encoder, TEXTS), "tiny")
    radio = next(block for block in page.blocks.values() if block.elem_id == "rule")
    assert radio.value == layout.OWN
    assert "theta 0.1 at layer 2, 0.5 at layer 4" in radio.choices[0][0]
    assert "googleapis" not in str(layout.theme()._stylesheets)


def test_page_of_a_landing_model(layout: ModuleType, landing: Encoder) -> None:
    page = layout.build(landing, embed_index(landing, TEXTS), "tiny")
    first = next(block for block in page.blocks.values() if block.elem_id == "first")
    assert not first.visible, "there is one layer to test at"
    handlers = layout.Handlers(landing, embed_index(landing, TEXTS))
    message, _, told, rows, _ = handlers.encode("a cat\nthe dog ran", layout.SET, 0.0, 1)
    assert not message.visible
    assert "**2** of 2 texts skip layers; **3.00** of 6 layers run" in told
    assert [row[3:5] for row in rows] == [["yes", 3], ["yes", 3]]


def test_one_line_for_a_model_that_is_none(layout: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["--model", "/nowhere/at/all"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("app: error: --model: '/nowhere/at/all'")
    assert printed.err.count("\n") == 1
