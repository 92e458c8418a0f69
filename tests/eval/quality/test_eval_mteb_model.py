"""LEAP in mteb: by name, with a threshold, offline; its scores are those of our own evaluation."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny_data

from eval.quality.retrieval import evaluate_retrieval
from eval.quality.sts import evaluate_sts
from leap.encode.encoder import load_encoder
from leap.errors import UsageError
from leap.text.sets import load_retrieval, load_sts
from modeling_leap import LeapModel

pytestmark = pytest.mark.integrations

NAME = "leap/LEAP-MiniLM-L6"


@pytest.fixture(scope="module")
def mteb() -> ModuleType:
    """mteb with LEAP among its models."""
    mteb = pytest.importorskip("mteb", reason="pip install -r requirements-integrations.txt")
    import eval.quality.mteb_model  # noqa: F401

    return mteb


def local_sts(source: str) -> Any:
    from mteb_tasks import LocalSts

    task = LocalSts()
    task.pairs = load_sts(source)
    return task


def local_retrieval(source: str) -> Any:
    from mteb_tasks import LocalRetrieval

    task = LocalRetrieval()
    task.found = load_retrieval(source)
    return task


def run(mteb: ModuleType, model: Any, task: Any) -> float:
    done = mteb.evaluate(model, [task], cache=None, co2_tracker=False, show_progress_bar=False)
    return done.task_results[0].get_score()


@pytest.fixture
def folder(tmp_path: Path, make_tiny_model: Callable[..., LeapModel]) -> str:
    return str(tiny_data.save_tiny(tmp_path / "tiny", make_tiny_model(**tiny_data.RULE)))


@pytest.fixture
def task(mteb: ModuleType, tmp_path: Path) -> Any:
    return local_sts(str(tiny_data.write_pairs(tmp_path / "pairs.csv")))


@pytest.mark.parametrize("theta", ["config", 0.3, [None, 0.2, 0.4, None, 0.5, None], None])
def test_scores_and_layers_are_ours(mteb: ModuleType, folder: str, task: Any, theta: Any) -> None:
    from mteb.models import EncoderProtocol

    model = mteb.get_model(NAME, source=folder, exit_threshold=theta)
    assert isinstance(model, EncoderProtocol)
    assert model.texts == 0
    score = run(mteb, model, task)
    ours = evaluate_sts(load_encoder(folder), task.pairs, exit_threshold=theta)
    expected = ours["exits"] or ours["full_depth"]
    assert score == pytest.approx(expected["spearman"], abs=1e-4)
    assert model.texts == 12
    assert model.layers_run == pytest.approx(12 * expected["mean_layers_run"])


def test_results_of_each_rule_are_kept_apart(mteb: ModuleType, folder: str) -> None:
    names = {
        mteb.get_model(NAME, source=folder, **rule).mteb_model_meta.experiment_name
        for rule in ({}, {"exit_threshold": None}, {"exit_threshold": 0.9}, {"min_exit_layer": 4})
    }
    assert len(names) == 4
    assert all(name and "exit_threshold" in name for name in names)


def test_retrieval(mteb: ModuleType, folder: str, tmp_path: Path) -> None:
    task = local_retrieval(str(tiny_data.write_beir(tmp_path / "beir")))
    model = mteb.get_model(NAME, source=folder)
    assert 0 < run(mteb, model, task) <= 1
    assert 2 <= model.layers_run / model.texts < 6


def test_a_wrong_threshold_is_said_before_work(mteb: ModuleType, folder: str) -> None:
    with pytest.raises(UsageError, match="exit_threshold must be"):
        mteb.get_model(NAME, source=folder, exit_threshold=7)


def test_command_line_sets_the_threshold(
    mteb: ModuleType, folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from eval.quality.mteb_model import main

    seen = {}

    def mtebs_own() -> None:
        import sys

        seen["argv"] = sys.argv
        seen["model"] = mteb.get_model(NAME)

    monkeypatch.setattr("eval.quality.mteb_model.mteb_main", mtebs_own)
    monkeypatch.setattr("sys.argv", ["pytest"])
    arguments = ["--exit_threshold", "0.93", "--source", folder, "run", "-m", NAME, "-t", "STSBenchmark"]
    assert main(arguments) == 0
    assert seen["argv"] == ["mteb", "run", "-m", NAME, "-t", "STSBenchmark"]
    assert seen["model"].rule["exit_threshold"] == 0.93
    capsys.readouterr()  # what loading the model has shown
    assert main(["--source", "/nowhere", "run"]) == 2
    assert capsys.readouterr().err.startswith("python -m eval.quality.mteb_model: error: source: '/nowhere'")


@pytest.mark.slow
@pytest.mark.real_weights
@pytest.mark.parametrize("theta", ["config", None])
def test_stsb_to_four_digits(mteb: ModuleType, repo_root: Path, theta: Any) -> None:
    try:
        task = local_sts("stsb")
    except UsageError:
        pytest.skip("no real data: set LEAP_DATA")
    model = mteb.get_model(NAME, source=str(repo_root), exit_threshold=theta)
    ours = evaluate_sts(load_encoder(str(repo_root)), task.pairs, exit_threshold=theta)
    expected = ours["exits"] or ours["full_depth"]
    assert run(mteb, model, task) == pytest.approx(expected["spearman"], abs=5e-5)


@pytest.mark.slow
@pytest.mark.real_weights
def test_scifact_to_four_digits(mteb: ModuleType, repo_root: Path) -> None:
    try:
        task = local_retrieval("scifact")
    except UsageError:
        pytest.skip("no real data: set LEAP_DATA")
    model = mteb.get_model(NAME, source=str(repo_root), exit_threshold=None)
    ours = evaluate_retrieval(load_encoder(str(repo_root)), task.found, exit_threshold=None)
    assert run(mteb, model, task) == pytest.approx(ours["settings"]["full_depth"]["ndcg@10"], abs=5e-4)
