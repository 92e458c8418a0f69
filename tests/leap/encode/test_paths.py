"""Every threshold as a lookup in the paths: what `LeapModel` itself does, in both forms of the model."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_data

from leap.encode.encoder import Encoder, encode, load_encoder
from leap.encode.paths import encode_paths
from modeling_leap import LeapModel

TEXTS = [sentence for pair in tiny_data.PAIRS for sentence in pair[:2]]
FORMS = {
    "release": {"landing_layer": 5, "min_exit_layer": 1, "max_exit_layer": 1},
    "three tests": {"landing_layer": 6, "min_exit_layer": 1},
    "patience 2": {"landing_layer": 6, "min_exit_layer": 2, "exit_patience": 2},
    "paper": {"min_exit_layer": 2},
    "paper, from the embeddings on": {"min_exit_layer": 1, "max_exit_layer": 3},
}


def encoder_of(model: LeapModel) -> Encoder:
    return Encoder("tiny", model, tiny_data.tiny_tokenizer(), 40)


@pytest.mark.parametrize("form", FORMS)
def test_every_threshold_is_a_lookup(make_tiny_model: Callable[..., LeapModel], form: str) -> None:
    encoder = encoder_of(make_tiny_model(**FORMS[form]))
    paths = encode_paths(encoder, TEXTS, batch_size=5)
    # Thresholds between the cosines seen, so that none is a tie; and those of all and of nobody.
    seen = np.sort(paths.cosines, axis=None)
    thetas = [-1.0, None, *((seen[1:] + seen[:-1]) / 2).tolist()]
    thetas += [[-1 if at == layer else None for at in range(1, 7)] for layer in paths.layers]
    ways = set()
    for theta in thetas:
        wanted = encode(encoder, TEXTS, batch_size=4, exit_threshold=theta)
        np.testing.assert_allclose(paths.at(theta), wanted.embeddings, atol=1e-5)
        np.testing.assert_array_equal(paths.cost(theta), wanted.layers_run)
        ways |= set(paths.taken(theta).tolist())
    assert ways == set(range(len(paths.layers_run)))  # else some paths were not compared


def test_a_threshold_a_layer_is_a_lookup_too(make_tiny_model: Callable[..., LeapModel]) -> None:
    encoder = encoder_of(make_tiny_model(**FORMS["three tests"]))
    paths = encode_paths(encoder, TEXTS)
    median = np.median(paths.cosines, axis=0).tolist()
    for theta in ([*median, None, None], [None, median[1], *[None] * 4], [0.9, *median[1:], None, None]):
        theta = [*theta, None][: encoder.depth]
        theta += [None] * (encoder.depth - len(theta))
        wanted = encode(encoder, TEXTS, exit_threshold=theta)
        np.testing.assert_allclose(paths.at(theta), wanted.embeddings, atol=1e-5)
        np.testing.assert_array_equal(paths.cost(theta), wanted.layers_run)


def test_costs_tokens_and_states(make_tiny_model: Callable[..., LeapModel]) -> None:
    encoder = encoder_of(make_tiny_model(**FORMS["release"]))
    paths = encode_paths(encoder, TEXTS)
    assert paths.layers.tolist() == [1]
    assert paths.layers_run.tolist() == [3, 6]
    assert paths.tokens.tolist() == [len(text.split()) + 2 for text in TEXTS]
    np.testing.assert_array_equal(paths.at(None), paths.full)
    np.testing.assert_array_equal(paths.at(-1), paths.leap)
    part = paths.take(np.array([2, 0]))
    np.testing.assert_array_equal(part.full, paths.full[[2, 0]])
    assert part.tokens.tolist() == paths.tokens[[2, 0]].tolist()


def test_a_model_without_tests_has_full_depth_alone(make_tiny_model: Callable[..., LeapModel]) -> None:
    paths = encode_paths(encoder_of(make_tiny_model(num_hidden_layers=1)), TEXTS)
    assert paths.embeddings.shape[1] == 1
    assert set(paths.cost(-1)) == {1}


@pytest.mark.real_weights
def test_lookups_on_real_weights(teacher_path: Path, train_texts: Callable[[int], list[str]]) -> None:
    """In another batch, too: there float32 sums come in another order."""
    encoder, texts = load_encoder(str(teacher_path)), train_texts(64)
    encoder.model.config.min_exit_layer = 2
    theta = 0.87  # all-MiniLM's layers 2 to 4 lie around it, so texts leave at all of them
    paths = encode_paths(encoder, texts, batch_size=16)
    clear = (np.abs(paths.cosines - theta) > 1e-4).all(axis=1)
    found = encode(encoder, texts, batch_size=64, exit_threshold=theta)
    assert clear.sum() >= 60
    assert len(set(paths.taken(theta)[clear])) > 1
    np.testing.assert_array_equal(found.layers_run[clear], paths.cost(theta)[clear])
    np.testing.assert_allclose(found.embeddings[clear], paths.at(theta)[clear], atol=1e-5)
