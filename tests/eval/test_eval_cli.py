"""`python -m eval`: results with their provenance, and one line for a wrong argument, before any work."""

import json
from collections.abc import Callable
from pathlib import Path

import eval_toys
import pytest

from eval.__main__ import main
from modeling_leap import LeapModel


@pytest.fixture
def toy(
    tmp_path: Path, make_tiny_model: Callable[..., LeapModel], monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Paths of a toy model and toy data."""
    monkeypatch.delenv("LEAP_DATA", raising=False)
    return {
        "model": str(eval_toys.save_toy(tmp_path / "m", make_tiny_model(**eval_toys.RULE))),
        "teacher": str(eval_toys.save_toy(tmp_path / "t", make_tiny_model(seed=1))),
        "pairs": str(eval_toys.write_pairs(tmp_path / "pairs.csv")),
        "beir": str(eval_toys.write_beir(tmp_path / "beir")),
        "output": str(tmp_path / "results" / "out.json"),
        "cache": str(tmp_path / "cache"),
    }


def test_sts_writes_figures_and_provenance(toy: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "sts",
        "--model",
        toy["model"],
        "--data",
        toy["pairs"],
        "--output",
        toy["output"],
        "--seed",
        "7",
    ]
    assert main(command) == 0
    result = json.loads(Path(toy["output"]).read_text())
    assert result["evaluation"] == "sts"
    assert result["figures"]["pairs"] == 6
    assert result["models"]["model"]["layers"] == 6
    assert len(result["data"]["sha256"]) == 64
    provenance = result["provenance"]
    assert provenance["command"].startswith("python -m eval sts --model ")
    assert provenance["seed"] == 7
    assert {"commit", "date"} <= set(provenance)
    assert {"python", "torch", "transformers", "numpy"} <= set(provenance["versions"])
    assert {"processor", "threads", "device"} <= set(provenance["machine"])
    printed = capsys.readouterr().out
    assert f"{result['figures']['full_depth']['spearman']:.4f}" in printed
    assert f"written to {toy['output']}" in printed


def test_the_same_seed_gives_the_same_figures(toy: dict[str, str]) -> None:
    found = []
    for _ in range(2):
        main(["sts", "--model", toy["model"], "--data", toy["pairs"], "--output", toy["output"]])
        found.append(json.loads(Path(toy["output"]).read_text())["figures"])
    assert found[0] == found[1]


def test_retrieval(toy: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["retrieval", "--model", toy["model"], "--teacher", toy["teacher"], "--data", toy["beir"]]
    assert main([*command, "--cache", toy["cache"], "--output", toy["output"]]) == 0
    result = json.loads(Path(toy["output"]).read_text())
    assert set(result["models"]) == {"model", "teacher"}
    assert len(result["figures"]["settings"]) == 5
    assert "query exits, teacher's documents" in capsys.readouterr().out


def test_pareto_chooses_and_writes(toy: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["pareto", "--model", toy["model"], "--data", toy["pairs"], "--thetas", "0.4,0.5,0.6"]
    choice = ["--choose", "--max_mean_layer", "5", "--write", "--min_exit_layers", "2,3"]
    assert main([*command, *choice, "--output", toy["output"]]) == 0
    chosen = json.loads(Path(toy["output"]).read_text())["figures"]["chosen"]
    assert chosen["mean_exit_layer"] <= 5 == chosen["max_mean_layer"]
    config = json.loads((Path(toy["model"]) / "config.json").read_text())
    assert config["exit_threshold"] == chosen["exit_threshold"]
    assert config["min_exit_layer"] == chosen["min_exit_layer"]
    assert "chosen: theta" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("nothing", "NAME must be one of sts, "),
        ("sts --model nowhere --data {pairs}", "--model: 'nowhere' is neither a folder nor a Hub id"),
        ("sts --model {model} --data nowhere.csv", "--data: there is no file 'nowhere.csv': check the path"),
        ("sts --model {model} --data {pairs} --output {beir}", "--output: '{beir}' is a folder: give a file"),
        ("sts --model {model} --data {pairs} --output {pairs}/x.json", "--output: cannot write"),
        (
            "sts --model {model} --data {pairs} --exit_threshold 2",
            "--exit_threshold must be a number in [-1, 1]",
        ),
        (
            "sts --model {model} --data {pairs} --min_exit_layer 9",
            "--min_exit_layer must be an integer in [2, 6]",
        ),
        ("retrieval --model {model} --data {pairs}", "--data: cannot load"),
        ("retrieval --model {model} --data {beir} --teacher no", "--teacher: 'no' is neither"),
        ("retrieval --model {model} --data {beir} --teacher_documents_only", "give --teacher"),
        (
            "pareto --model {model} --data {pairs} --choose",
            "--choose: goes with --max_mean_layer or --max_loss",
        ),
        ("pareto --model {model} --data {pairs} --write", "--write: writes what --choose has chosen"),
        ("pareto --model a/b --choose --max_mean_layer 3 --write", "--write: 'a/b' is not a folder"),
    ],
)
def test_one_line_for_a_wrong_argument(
    toy: dict[str, str], capsys: pytest.CaptureFixture[str], command: str, complaint: str
) -> None:
    assert main(command.format(**toy).split()) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert complaint.format(**toy) in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("sts", "--model"),
        ("sts --model x --batch_size 0", "argument --batch_size: must be at least 1, got 0"),
        ("sts --model x --exit_threshold high", "argument --exit_threshold: invalid"),
        ("pareto --model x --thetas 0.9,b", "argument --thetas: invalid comma-separated list of float"),
    ],
)
def test_one_line_for_what_does_not_parse(
    capsys: pytest.CaptureFixture[str], command: str, complaint: str
) -> None:
    with pytest.raises(SystemExit) as status:
        main(command.split())
    assert status.value.code == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert complaint in printed


def test_help_lists_the_evaluations(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listing = capsys.readouterr().out
    assert main([]) == 2
    capsys.readouterr()
    for name in ("sts", "retrieval", "pareto"):
        assert f"\n  {name} " in listing
        with pytest.raises(SystemExit) as status:
            main([name, "--help"])
        assert status.value.code == 0
        assert "--output" in capsys.readouterr().out
