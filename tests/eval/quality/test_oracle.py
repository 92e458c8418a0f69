"""The oracle agrees with the model in both of its forms, and tells when a text went on at another layer."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from eval.quality.oracle import judge, plain_bert
from modeling_leap import LeapModel

FORMS = [
    {"landing_layer": 5, "min_exit_layer": 1, "max_exit_layer": 1},
    {"landing_layer": 6, "min_exit_layer": 1},
    {"landing_layer": 6, "min_exit_layer": 2, "exit_patience": 2},
    {"min_exit_layer": 1},
    {"min_exit_layer": 3, "exit_patience": 2},
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("theta", [-1, 0.35, 0.5, [0.4, None, 0.5, 0.3, 0.4, None], None])
@pytest.mark.parametrize("max_layers", [None, 5, 2])
def test_the_oracle_agrees_with_the_model(
    make_tiny_model: Callable[..., LeapModel],
    tiny_batch: dict[str, Tensor],
    form: dict[str, int],
    theta: object,
    max_layers: int | None,
) -> None:
    if max_layers and form["min_exit_layer"] > max_layers:
        pytest.skip("no layer to leave at")
    model = make_tiny_model(**form)
    call = tiny_batch | {"exit_threshold": theta, "max_layers": max_layers}
    with torch.inference_mode():
        verdict = judge(plain_bert(model), model, call, model(**call))
    assert verdict.wrong == []


def test_another_landing_layer_is_found(
    make_tiny_model: Callable[..., LeapModel], tiny_batch: dict[str, Tensor]
) -> None:
    model = make_tiny_model(**FORMS[0])
    call = tiny_batch | {"exit_threshold": -1}
    with torch.inference_mode():
        output = model(**call)
        model.config.landing_layer = 6
        verdict = judge(plain_bert(model), model, call, output)
    assert len(verdict.wrong) == 16
    assert "another embedding" in verdict.wrong[0]
