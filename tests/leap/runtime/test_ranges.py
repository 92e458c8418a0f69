"""Inner units of wide range: found, and kept out of what int8 rounds together."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from onnxruntime import InferenceSession
from test_export import batch, run

from leap.encode.encoder import Encoder, load_encoder
from leap.runtime import forms
from leap.runtime.bert import Bert, Precision
from leap.runtime.ranges import UNITS, widest_units

FAR = 300  # times the reach of the other units


def test_units_that_reach_far_are_found_and_cost_no_precision(folder: Path) -> None:
    encoder = load_encoder(str(folder), device="cpu")
    far = [3, 60, 17, 33, 0, 63]  # of each of the 6 layers one
    with torch.no_grad():
        for unit, layer in zip(far, encoder.model.encoder.layer, strict=True):
            layer.intermediate.dense.weight[unit] *= FAR
            layer.intermediate.dense.bias[unit] = FAR  # so that it is above 0 on most tokens
            layer.output.dense.weight[:, unit] /= FAR
    found = widest_units(encoder)
    assert all(unit in some for unit, some in zip(far, found, strict=True))
    assert all(len(set(some)) == UNITS and list(some) == sorted(some) for some in found)

    feed = batch()
    exact = _vectors(encoder, "float32", (), feed)
    apart = _vectors(encoder, "int8", found, feed)
    together = _vectors(encoder, "int8", [np.array([], np.int64)] * 6, feed)
    errors = [1 - (side * exact).sum(axis=1).mean() for side in (apart, together)]
    assert errors[0] < 0.003 and errors[1] > 5 * errors[0], errors


def _vectors(
    encoder: Encoder, precision: Precision, wide: Sequence[np.ndarray], feed: dict[str, np.ndarray]
) -> np.ndarray:
    """Unit vectors of ONNX Runtime."""
    weights = {name: tensor.numpy() for name, tensor in encoder.model.state_dict().items()}
    bert = Bert(encoder.model.config.to_dict(), weights, precision, wide)
    model = forms.fixed(bert, range(1, bert.layers + 1), {})
    found = run(InferenceSession(model.SerializeToString()), feed)["sentence_embedding"]
    return found / np.linalg.norm(found, axis=1, keepdims=True)
