"""The average of two students."""

from collections.abc import Callable

import pytest
import torch

from distill.average import average
from modeling_leap import LeapModel


def test_average_lies_on_the_line_between_the_two(make_tiny_model: Callable[..., LeapModel]) -> None:
    first, second = make_tiny_model(seed=0), make_tiny_model(seed=1)
    own = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    model = average(first, second, 0.25)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, 0.75 * own[name] + 0.25 * second.state_dict()[name])


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_share_is_named(make_tiny_model: Callable[..., LeapModel], share: float) -> None:
    with pytest.raises(ValueError, match="--share"):
        average(make_tiny_model(), make_tiny_model(), share)


def test_models_of_other_shapes_are_refused(make_tiny_model: Callable[..., LeapModel]) -> None:
    with pytest.raises(ValueError, match="--second"):
        average(make_tiny_model(), make_tiny_model(hidden_size=64), 0.5)
