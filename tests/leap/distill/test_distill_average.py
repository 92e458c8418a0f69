"""The average of two students."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from eval_toys import save_toy

from leap.distill.average import average, main
from leap.encode.encoder import load_encoder
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


def test_command_writes_a_model_and_what_it_is_of(
    make_tiny_model: Callable[..., LeapModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (str(save_toy(tmp_path / f"{seed}", make_tiny_model(seed=seed))) for seed in (0, 1))
    output = tmp_path / "average"
    command = ["average", "--first", first, "--second", second, "--output", str(output)]
    monkeypatch.setattr("sys.argv", command)
    main()
    assert json.loads((output / "average.json").read_text()) == {
        "first": first,
        "second": second,
        "share": 0.5,
    }
    found, one, other = (load_encoder(name).model.state_dict() for name in (str(output), first, second))
    name = "encoder.layer.0.output.dense.weight"
    torch.testing.assert_close(found[name], (one[name] + other[name]) / 2)
    monkeypatch.setattr("sys.argv", [*command, "--share", "2"])
    with pytest.raises(SystemExit):
        main()
