"""The exit rule on stored embeddings: by hand, and against LeapModel's own exits."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from leap.encode.encoder import encode, encode_layers, load_encoder
from leap.encode.exits import at_layers, exit_layers, row_cosines, successive_cosines
from modeling_leap import LeapModel

# Three texts, four layers, embeddings in the plane at these angles (degrees): s_l is the cosine between two.
ANGLES = np.array([[0, 60, 90, 90], [0, 10, 70, 75], [0, 90, 0, 90]])
THETAS = [0.4, 0.45, 0.5, 0.55, [None, 0.5, 0.45, None, 0.4, None]]
LAYERS = np.stack([np.cos(np.radians(ANGLES)), np.sin(np.radians(ANGLES))], axis=-1)


def test_successive_cosines_by_hand() -> None:
    found = successive_cosines(LAYERS)
    assert np.isnan(found[:, 0]).all()
    wanted = np.cos(np.radians([[60, 30, 0], [10, 60, 5], [90, 90, 90]]))
    np.testing.assert_allclose(found[:, 1:], wanted, atol=1e-12)


def test_successive_cosines_with_patience_two_skips_a_layer() -> None:
    found = successive_cosines(LAYERS, patience=2)
    assert np.isnan(found[:, :2]).all()
    np.testing.assert_allclose(found[:, 2:], np.cos(np.radians([[90, 30], [70, 65], [0, 0]])), atol=1e-12)


@pytest.mark.parametrize(
    ("theta", "first_layer", "wanted"),
    [
        (0.8, 2, [3, 2, 4]),  # cos 30 = 0.87, cos 10 = 0.98, none
        (0.8, 3, [3, 4, 4]),
        (0.9, 2, [4, 2, 4]),
        (-0.5, 2, [2, 2, 2]),
        (-0.5, 4, [4, 4, 4]),
        (None, 2, [4, 4, 4]),
        ([0, 0.9, 0.8, 0.99], 2, [3, 2, 4]),
        ([0, None, 0.8, 0], 2, [3, 4, 4]),
        ([0, 0.9, 0.8, 0], 3, [3, 4, 4]),
        ([0, None, None, 0], 2, [4, 4, 4]),
    ],
)
def test_exit_layers_by_hand(
    theta: float | list[float | None] | None, first_layer: int, wanted: list[int]
) -> None:
    assert exit_layers(successive_cosines(LAYERS), theta, first_layer).tolist() == wanted


def test_at_layers_takes_each_row_at_its_layer() -> None:
    found = at_layers(LAYERS, np.array([1, 4, 2]))
    np.testing.assert_array_equal(found, LAYERS[[0, 1, 2], [0, 3, 1]])


def test_a_zero_vector_has_no_cosine_and_does_not_leave() -> None:
    layers = np.zeros((1, 3, 2))
    assert np.isnan(row_cosines(layers[0], layers[0])).all()
    assert exit_layers(successive_cosines(layers), -0.9, 2).tolist() == [3]


@pytest.mark.parametrize("patience", [1, 2])
@pytest.mark.parametrize("first_layer", [3, 4])
@pytest.mark.parametrize("theta", THETAS)
def test_equals_the_exits_of_the_model(
    make_tiny_model: Callable[..., LeapModel],
    tiny_batch: dict[str, Tensor],
    theta: float | list[float | None],
    first_layer: int,
    patience: int,
) -> None:
    model = make_tiny_model(exit_patience=patience)
    with torch.inference_mode():
        layers = model(**tiny_batch, output_layer_embeddings=True).layer_embeddings[:, 1:].numpy()
        output = model(**tiny_batch, exit_threshold=theta, min_exit_layer=first_layer)
    left = exit_layers(successive_cosines(layers, patience), theta, first_layer)
    assert left.tolist() == output.exit_layer.tolist()
    np.testing.assert_allclose(at_layers(layers, left), output.sentence_embedding.numpy(), atol=1e-5)


def test_the_thresholds_above_send_rows_out_at_several_layers(
    tiny_model: LeapModel, tiny_batch: dict[str, Tensor]
) -> None:
    """Else the test above would compare full depth with full depth."""
    with torch.inference_mode():
        layers = [
            tiny_model(**tiny_batch, exit_threshold=theta, min_exit_layer=3).exit_layer.tolist()
            for theta in THETAS
        ]
    assert any(len(set(left)) > 1 for left in layers[:-1]), layers
    assert len(set(layers[-1])) > 1  # of one threshold a layer


@pytest.mark.real_weights
def test_equals_the_exits_of_the_real_model(
    teacher_path: Path, train_texts: Callable[[int], list[str]]
) -> None:
    encoder = load_encoder(str(teacher_path))
    texts = train_texts(64)
    theta = 0.87  # all-MiniLM's layers 2 to 4 lie around it, so texts leave at all of them
    layers = encode_layers(encoder, texts, batch_size=16)
    cosines = successive_cosines(layers)
    # Rows that are as near to theta as float32 sums in another order are apart may go either way.
    clear = (np.abs(cosines[:, 1:] - theta) > 1e-4).all(axis=1)
    left = exit_layers(cosines, theta, 2)
    found = encode(encoder, texts, batch_size=64, exit_threshold=theta, min_exit_layer=2)
    assert clear.sum() >= 60
    assert len(set(left[clear])) > 1
    np.testing.assert_array_equal(found.exit_layers[clear], left[clear])
    np.testing.assert_allclose(found.embeddings[clear], at_layers(layers, left)[clear], atol=1e-5)
