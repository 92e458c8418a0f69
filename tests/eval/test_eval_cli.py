"""`python -m eval`: results with their provenance, and one line for a wrong argument, before any work."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_data

from eval import report
from eval.__main__ import main
from modeling_leap import LeapModel


@pytest.fixture
def tiny(
    tmp_path: Path, make_tiny_model: Callable[..., LeapModel], monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Paths of a tiny model and tiny data."""
    monkeypatch.delenv("LEAP_DATA", raising=False)
    return {
        "model": str(tiny_data.save_tiny(tmp_path / "m", make_tiny_model(**tiny_data.RULE))),
        "teacher": str(tiny_data.save_tiny(tmp_path / "t", make_tiny_model(seed=1))),
        "pairs": str(tiny_data.write_pairs(tmp_path / "pairs.csv")),
        "beir": str(tiny_data.write_beir(tmp_path / "beir")),
        "output": str(tmp_path / "results" / "out.json"),
        "cache": str(tmp_path / "cache"),
    }


def test_sts_writes_figures_and_provenance(tiny: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "sts",
        "--model",
        tiny["model"],
        "--data",
        tiny["pairs"],
        "--output",
        tiny["output"],
        "--seed",
        "7",
    ]
    assert main(command) == 0
    result = json.loads(Path(tiny["output"]).read_text())
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
    assert f"written to {tiny['output']}" in printed


def test_the_same_seed_gives_the_same_figures(tiny: dict[str, str]) -> None:
    found = []
    for _ in range(2):
        main(["sts", "--model", tiny["model"], "--data", tiny["pairs"], "--output", tiny["output"]])
        found.append(json.loads(Path(tiny["output"]).read_text())["figures"])
    assert found[0] == found[1]


def test_retrieval(tiny: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["retrieval", "--model", tiny["model"], "--teacher", tiny["teacher"], "--data", tiny["beir"]]
    assert main([*command, "--cache", tiny["cache"], "--output", tiny["output"]]) == 0
    result = json.loads(Path(tiny["output"]).read_text())
    assert set(result["models"]) == {"model", "teacher"}
    assert len(result["figures"]["settings"]) == 6
    assert "query exits, teacher's documents" in capsys.readouterr().out


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
            "sts --model {model} --data {pairs} --exit_threshold high",
            "--exit_threshold: must be a number, none",
        ),
        ("sts --model {model} --batch_size 0", "--batch_size: must be at least 1, got 0"),
        (
            "retrieval --model {model} --data {pairs}",
            "--data: '{pairs}' is a file: give a folder",
        ),
        ("retrieval --model {model} --data {beir} --teacher no", "--teacher: 'no' is neither"),
        ("retrieval --model {model} --data {beir} --teacher_documents_only", "give --teacher"),
    ],
)
def test_one_line_for_a_wrong_argument(
    tiny: dict[str, str], capsys: pytest.CaptureFixture[str], command: str, complaint: str
) -> None:
    assert main(command.format(**tiny).split()) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert complaint.format(**tiny) in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("sts", "--model"),
        ("sts --model x --batch_size many", "argument --batch_size/--batch-size: invalid int value: 'many'"),
        ("sts --model x --theta 1", "unrecognized arguments: --theta 1"),
        (
            "latency --model x --batch_sizes 1,b",
            "argument --batch_sizes/--batch-sizes: invalid int value: '1,b'",
        ),
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
    for name in ("sts", "retrieval", "front", "latency"):
        assert f"\n  {name} " in listing
        with pytest.raises(SystemExit) as status:
            main([name, "--help"])
        assert status.value.code == 0
        assert "--output" in capsys.readouterr().out


def test_a_commit_is_marked_where_the_tree_differs_but_by_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    files = [tmp_path / "eval" / "report.py", tmp_path / "results" / "front.png"]
    for path in files:
        path.parent.mkdir()
        path.touch()
    monkeypatch.setattr(report, "__file__", str(files[0]))
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    commit = git("rev-parse", "HEAD").strip()
    files[1].write_text("drawn before the provenance is written")
    assert report._commit() == commit
    files[0].write_text("changed")
    assert report._commit() == f"{commit}+"
