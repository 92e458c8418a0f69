"""Averaging: the numbers, what a user gets, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_data
import torch

from leap.arguments import OptionsParser
from leap.distill.average import AverageOptions, write
from leap.distill.release import write_model
from leap.encode.encoder import load_encoder
from leap.errors import UsageError
from modeling_leap import LeapModel

MakeModel = Callable[..., LeapModel]


@pytest.fixture
def make_folder(tmp_path: Path, make_tiny_model: MakeModel) -> Callable[..., str]:
    def make(name: str, **fields: object) -> str:
        write_model(tmp_path / name, make_tiny_model(**fields), tiny_data.tiny_tokenizer(), 32)
        return str(tmp_path / name)

    return make


def run(models: list[str], shares: list[str], output: Path, *more: str) -> dict[str, object]:
    arguments = ["--models", *models, "--shares", *shares, "--output", str(output), *more]
    write(OptionsParser(AverageOptions).parse(arguments))
    return json.loads((output / "average.json").read_text())


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-7), ("float16", 1e-4)])
def test_weights_are_the_weighted_mean(
    make_folder: Callable[..., str], tmp_path: Path, dtype: str, tolerance: float
) -> None:
    folders = [make_folder("a", seed=1, exit_threshold=0.5), make_folder("b", seed=2)]
    record = run(folders, ["0.25", "0.75"], tmp_path / "out", "--save_dtype", dtype)
    one, other, found = (load_encoder(name).model for name in (*folders, str(tmp_path / "out")))
    for (name, first), second, mean in zip(
        one.state_dict().items(), other.state_dict().values(), found.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(mean, 0.25 * first + 0.75 * second, atol=tolerance, rtol=1e-3, msg=name)
    assert found.config.exit_threshold == 0.5
    assert [part["share"] for part in record["average_of"]] == [0.25, 0.75]
    assert record["average_of"][0]["sha256"] == load_encoder(folders[0]).fingerprint()
    assert record["models"]["model"]["sha256"] == load_encoder(str(tmp_path / "out")).fingerprint()


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        (["1"], "1 for 2 models"),
        (["0.5", "0.4"], "their sum 1"),
        (["1.5", "-0.5"], "above 0"),
        (["1", "0"], "above 0"),
    ],
)
def test_shares_that_are_none(tmp_path: Path, shares: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(["a", "b"], shares, tmp_path / "out")


def test_a_folder_that_holds_something_is_left_alone(make_folder: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"^--output: .* holds 'notes.txt', and the whole folder"):
        run([make_folder("a"), make_folder("b")], ["0.5", "0.5"], tmp_path / "out")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_models_that_do_not_fit(make_folder: Callable[..., str], tmp_path: Path) -> None:
    folders = [make_folder("a"), make_folder("b", intermediate_size=24)]
    with pytest.raises(UsageError, match=r"--models: '.*b' has not the shape and tokenizer of '.*a'"):
        run(folders, ["0.5", "0.5"], tmp_path / "out")
    with pytest.raises(UsageError, match="--models"):
        run([folders[0], str(tmp_path / "nowhere")], ["0.5", "0.5"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
