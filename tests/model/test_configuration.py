import json
from pathlib import Path

import numpy as np
import pytest
import torch

from configuration_leap import LeapConfig


def test_defaults_are_full_depth_and_half_the_layers() -> None:
    config = LeapConfig()
    assert (config.exit_threshold, config.min_exit_layer, config.exit_patience) == (None, None, 1)
    assert (config.landing_layer, config.max_exit_layer) == (None, None)  # as in the paper, rows leave
    assert config.resolve_exit_rule() == (None, 6, 1)  # of 12 layers, as in the paper
    assert config.model_type == "bert"


@pytest.mark.parametrize(
    ("layers", "patience", "expected"),
    [(12, 1, 6), (6, 1, 3), (7, 1, 3), (3, 1, 1), (2, 1, 1), (1, 1, 1), (6, 3, 3), (6, 5, 5), (12, 8, 8)],
)
def test_min_exit_layer_defaults_to_half_within_its_range(layers: int, patience: int, expected: int) -> None:
    assert LeapConfig(num_hidden_layers=layers, exit_patience=patience).resolve_exit_rule()[1] == expected


@pytest.mark.parametrize("theta", [None, 1, 1.0, 0.95, 0, -0.999, -1, -1.0])
def test_thresholds_that_make_sense(theta: float | None) -> None:
    assert LeapConfig(exit_threshold=theta).resolve_exit_rule()[0] == theta


@pytest.mark.parametrize(
    "theta", [-1.0001, 1.0001, 2, float("nan"), float("inf"), -float("inf"), True, "0.9", "config", [0.9], 1j]
)
def test_thresholds_that_do_not(theta: object) -> None:
    with pytest.raises(ValueError, match=r"exit_threshold must be a number in \[-1, 1\].*got") as error:
        LeapConfig(exit_threshold=theta)
    assert repr(theta) in str(error.value)


def test_thresholds_by_layer_are_plain_numbers_in_a_list() -> None:
    given = (None, np.float32(0.5), 1, 0.9)
    config = LeapConfig(num_hidden_layers=4, exit_threshold=given)
    assert config.exit_threshold == [None, 0.5, 1.0, 0.9] == config.resolve_exit_rule()[0]
    assert [type(theta) for theta in config.exit_threshold] == [type(None), float, float, float]
    assert config.resolve_exit_rule([None] * 4) == ([None] * 4, 2, 1)
    assert config == LeapConfig(num_hidden_layers=4, exit_threshold=list(given))
    assert config != LeapConfig(num_hidden_layers=4, exit_threshold=[None, 0.5, 1, 0.8])


@pytest.mark.parametrize(
    "thetas", [[], [0.9], [0.9] * 3, [0.9] * 5, [0.9, 0.9, 0.9, 2], [None, -1.5, None, None]]
)
def test_thresholds_by_layer_that_make_no_sense(thetas: list[object]) -> None:
    with pytest.raises(ValueError, match=r"exit_threshold must be .* a list of 4 of them, .*got \[") as error:
        LeapConfig(num_hidden_layers=4, exit_threshold=thetas)
    assert repr(thetas) in str(error.value)


@pytest.mark.parametrize("item", [True, "0.9", float("nan"), [0.9], "config"])
def test_items_that_are_no_threshold(item: object) -> None:
    with pytest.raises(ValueError, match="exit_threshold must be"):
        LeapConfig(num_hidden_layers=2, exit_threshold=[0.9, item])


def test_thresholds_by_layer_survive_dict_and_file(tmp_path: Path) -> None:
    thetas = [None, None, 0.91, None]
    config = LeapConfig(num_hidden_layers=4, exit_threshold=thetas, min_exit_layer=2)
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["exit_threshold"] == thetas
    for copy in (LeapConfig.from_dict(config.to_dict()), LeapConfig.from_pretrained(tmp_path)):
        assert copy.resolve_exit_rule() == (thetas, 2, 1)
        assert copy.exit_threshold == thetas
    with pytest.raises(ValueError, match="a list of 3 of them"):
        LeapConfig.from_pretrained(tmp_path, num_hidden_layers=3).resolve_exit_rule()


def test_fields_of_others_survive_a_file(tmp_path: Path) -> None:
    certificate = {"alpha": 0.05, "grid": [1.0, 0.5], "none": None}
    LeapConfig(exit_certificate=certificate).save_pretrained(tmp_path)
    again = LeapConfig.from_pretrained(tmp_path)
    assert again.exit_certificate == certificate
    assert again.to_dict()["exit_certificate"] == certificate


@pytest.mark.parametrize("value", [0, -1, 7, 2.0, True, "3"])
def test_min_exit_layer_out_of_range(value: object) -> None:
    with pytest.raises(ValueError, match=r"min_exit_layer must be an integer in \[1, 6\], got ") as error:
        LeapConfig(num_hidden_layers=6, min_exit_layer=value)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("value", [0, -1, 6, 1.0, True, None, "1"])
def test_exit_patience_out_of_range(value: object) -> None:
    with pytest.raises(ValueError, match=r"exit_patience must be an integer in \[1, 5\], got "):
        LeapConfig(num_hidden_layers=6, exit_patience=value)


def test_min_exit_layer_must_leave_room_for_the_patience() -> None:
    rule = LeapConfig(num_hidden_layers=6, exit_patience=3, min_exit_layer=3).resolve_exit_rule()
    assert rule == (None, 3, 3)
    with pytest.raises(ValueError, match=r"min_exit_layer must be an integer in \[3, 6\], got 2"):
        LeapConfig(num_hidden_layers=6, exit_patience=3, min_exit_layer=2)


def test_one_layer() -> None:
    assert LeapConfig(num_hidden_layers=1, exit_threshold=0.9, min_exit_layer=1).resolve_exit_rule() == (
        0.9,
        1,
        1,
    )
    with pytest.raises(ValueError, match=r"min_exit_layer must be an integer in \[1, 1\], got 2"):
        LeapConfig(num_hidden_layers=1, min_exit_layer=2)
    with pytest.raises(ValueError, match=r"exit_patience must be an integer in \[1, 1\], got 2"):
        LeapConfig(num_hidden_layers=1, exit_patience=2)


def test_arguments_stand_in_for_fields() -> None:
    config = LeapConfig(num_hidden_layers=6, exit_threshold=0.9, min_exit_layer=4)
    assert config.resolve_exit_rule() == (0.9, 4, 1)
    assert config.resolve_exit_rule("config", None) == (0.9, 4, 1)
    assert config.resolve_exit_rule(None, 2) == (None, 2, 1)
    assert config.resolve_exit_rule(0.5) == (0.5, 4, 1)
    with pytest.raises(ValueError, match="exit_threshold"):
        config.resolve_exit_rule(1.5)
    with pytest.raises(ValueError, match="min_exit_layer"):
        config.resolve_exit_rule(min_exit_layer=0)


def test_assigned_fields_are_checked_when_used() -> None:
    config = LeapConfig()
    config.exit_threshold = 2
    with pytest.raises(ValueError, match=r"exit_threshold .* got 2"):
        config.resolve_exit_rule()


def test_survives_dict_and_file(tmp_path: Path) -> None:
    config = LeapConfig(
        num_hidden_layers=4, hidden_size=32, exit_threshold=0.91, min_exit_layer=3, exit_patience=2
    )
    config.save_pretrained(tmp_path)
    for copy in (LeapConfig.from_dict(config.to_dict()), LeapConfig.from_pretrained(tmp_path)):
        assert copy.resolve_exit_rule() == (0.91, 3, 2)
        assert (copy.num_hidden_layers, copy.hidden_size) == (4, 32)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == "bert"
    assert saved["auto_map"]["AutoConfig"] == "configuration_leap.LeapConfig"
    assert (saved["exit_threshold"], saved["min_exit_layer"], saved["exit_patience"]) == (0.91, 3, 2)
    assert (tmp_path / "configuration_leap.py").is_file()


def test_numpy_scalars_can_be_saved(tmp_path: Path) -> None:
    LeapConfig(exit_threshold=np.float32(0.5), min_exit_layer=np.int64(3)).save_pretrained(tmp_path)
    assert LeapConfig.from_pretrained(tmp_path).resolve_exit_rule() == (0.5, 3, 1)


def test_full_depth_survives_a_file(tmp_path: Path) -> None:
    LeapConfig().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["exit_threshold"] is None
    assert LeapConfig.from_pretrained(tmp_path).resolve_exit_rule() == (None, 6, 1)
    assert LeapConfig.from_pretrained(tmp_path, exit_threshold=0.9).exit_threshold == 0.9


def test_a_file_with_nonsense_does_not_load(tmp_path: Path) -> None:
    LeapConfig().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"exit_threshold": 95}))
    with pytest.raises(ValueError, match=r"exit_threshold must be a number in \[-1, 1\].*got 95"):
        LeapConfig.from_pretrained(tmp_path)


def test_equality_sees_the_exit_rule() -> None:
    assert LeapConfig(exit_threshold=0.9) == LeapConfig(exit_threshold=0.9)
    assert LeapConfig(exit_threshold=0.9) != LeapConfig(exit_threshold=0.8)
    assert LeapConfig(landing_layer=9, max_exit_layer=6) == LeapConfig(landing_layer=9, max_exit_layer=6)
    assert LeapConfig(landing_layer=9, max_exit_layer=6) != LeapConfig(landing_layer=10, max_exit_layer=6)
    assert LeapConfig(landing_layer=9, max_exit_layer=6) != LeapConfig(landing_layer=9, max_exit_layer=7)


@pytest.mark.parametrize(
    ("fields", "first", "layers"),
    [
        ({"landing_layer": 5, "min_exit_layer": 1, "max_exit_layer": 1}, 1, [1]),  # the released model
        ({"landing_layer": 5, "min_exit_layer": 1}, 1, [1, 2, 3]),  # nobody leaps from 4 to 5
        ({"landing_layer": 5}, 3, [3]),
        ({"landing_layer": 6}, 3, [3, 4]),
        ({"landing_layer": 4}, 2, [2]),  # half of the layers, and not beyond the last that leaps
        ({"landing_layer": 3}, 1, [1]),
        ({"landing_layer": 4, "exit_patience": 2}, 2, [2]),
        ({"max_exit_layer": 2}, 2, [2]),
        ({"min_exit_layer": 1, "max_exit_layer": 2}, 1, [1, 2]),
        ({"min_exit_layer": 1}, 1, [1, 2, 3, 4, 5]),  # at the last layer there is no choice
        ({"min_exit_layer": 6}, 6, []),
        ({"exit_patience": 5}, 5, [5]),
    ],
    ids=str,
)
def test_where_texts_may_leave(fields: dict[str, int], first: int, layers: list[int]) -> None:
    config = LeapConfig(num_hidden_layers=6, exit_threshold=0.5, **fields)
    assert config.resolve_exit_rule()[1] == first
    assert config.exit_thresholds() == dict.fromkeys(layers, 0.5)
    assert config.exit_thresholds(-1) == dict.fromkeys(layers, -1.0)
    assert config.exit_thresholds(None) == {}
    thetas = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert config.exit_thresholds(thetas) == {n: thetas[n - 1] for n in layers}
    assert list(config.exit_thresholds([None, *thetas[1:]])) == [n for n in layers if n != 1]


def test_where_texts_may_leave_at_less_depth() -> None:
    config = LeapConfig(num_hidden_layers=6, exit_threshold=0.5, min_exit_layer=1)
    assert list(config.exit_thresholds(max_layers=3)) == [1, 2]
    config.landing_layer = 5
    assert list(config.exit_thresholds(max_layers=5)) == list(config.exit_thresholds()) == [1, 2, 3]
    assert config.exit_thresholds(max_layers=4) == {}  # where they would land is not run


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"landing_layer": 2}, r"landing_layer must be an integer in \[3, 6\], got 2"),
        ({"landing_layer": 7}, r"landing_layer must be an integer in \[3, 6\], got 7"),
        ({"landing_layer": 0}, r"landing_layer must be an integer in \[3, 6\], got 0"),
        ({"landing_layer": 5.0}, r"landing_layer must be an integer in \[3, 6\], got 5.0"),
        ({"landing_layer": True}, r"landing_layer must be an integer in \[3, 6\], got True"),
        ({"landing_layer": "5"}, r"landing_layer must be an integer in \[3, 6\], got '5'"),
        ({"landing_layer": 3, "exit_patience": 2}, r"landing_layer must be an integer in \[4, 6\], got 3"),
        ({"landing_layer": 5, "min_exit_layer": 4}, r"min_exit_layer must be an integer in \[1, 3\], got 4"),
        ({"landing_layer": 5, "max_exit_layer": 4}, r"max_exit_layer must be an integer in \[1, 3\], got 4"),
        ({"max_exit_layer": 7}, r"max_exit_layer must be an integer in \[1, 6\], got 7"),
        ({"max_exit_layer": 1, "exit_patience": 2}, r"max_exit_layer must be an integer in \[2, 6\], got 1"),
        ({"max_exit_layer": False}, r"max_exit_layer must be an integer in \[1, 6\], got False"),
        ({"min_exit_layer": 3, "max_exit_layer": 2}, r"min_exit_layer must be an integer in \[1, 2\], got 3"),
    ],
)
def test_landing_and_last_exit_layer_out_of_range(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        LeapConfig(num_hidden_layers=6, **fields)
    config = LeapConfig(num_hidden_layers=6)
    for name, value in fields.items():
        setattr(config, name, value)
    with pytest.raises(
        ValueError, match=f"^{message}$"
    ):  # fields may be assigned, and are then checked in use
        config.resolve_exit_rule()


def test_landing_survives_dict_and_file(tmp_path: Path) -> None:
    fields = {"landing_layer": 5, "min_exit_layer": 1, "max_exit_layer": 1}
    config = LeapConfig(num_hidden_layers=6, exit_threshold=0.75, **fields)
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert {name: saved[name] for name in fields} == fields
    for copy in (LeapConfig.from_dict(config.to_dict()), LeapConfig.from_pretrained(tmp_path)):
        assert {name: getattr(copy, name) for name in fields} == fields
        assert copy.exit_thresholds() == {1: 0.75}


@pytest.mark.parametrize(
    "array",
    [
        np.array([0.1, 0.2, 0.3, 0.4]),
        np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32),
        np.array([0.1, None, 0.3, 0.4], dtype=object),
        np.array(0.5),
        torch.tensor([0.1, 0.2, 0.3, 0.4]),
    ],
    ids=str,
)
def test_arrays_of_thresholds(array: object, tmp_path: Path) -> None:
    config = LeapConfig(num_hidden_layers=4, exit_threshold=array)
    assert config.exit_threshold == array.tolist() == config.resolve_exit_rule(array)[0]
    config.save_pretrained(tmp_path)
    assert LeapConfig.from_pretrained(tmp_path).exit_threshold == config.exit_threshold


@pytest.mark.parametrize(
    "array", [np.zeros(3), np.zeros((4, 1)), np.full(4, np.nan), np.array(True)], ids=str
)
def test_arrays_that_are_no_thresholds(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"^exit_threshold must be a number in"):
        LeapConfig(num_hidden_layers=4, exit_threshold=array)
