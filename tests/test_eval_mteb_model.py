"""LEAP in mteb: by name, with a threshold, offline; its scores are those of our own evaluation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import eval_toys
import numpy as np
import pytest

pytestmark = pytest.mark.integrations
mteb = pytest.importorskip("mteb", reason="pip install -r requirements-integrations.txt")

from datasets import Dataset  # noqa: E402
from mteb.abstasks import AbsTaskRetrieval, AbsTaskSTS  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models import EncoderProtocol  # noqa: E402

from eval.data import RetrievalData, StsData, load_retrieval, load_sts  # noqa: E402
from eval.encode import load_encoder  # noqa: E402
from eval.errors import UsageError  # noqa: E402
from eval.mteb_model import NAME, main  # noqa: E402
from eval.retrieval import evaluate_retrieval  # noqa: E402
from eval.sts import evaluate_sts  # noqa: E402
from modeling_leap import LeapModel  # noqa: E402


def metadata(name: str, kind: str, score: str) -> TaskMetadata:
    return TaskMetadata(
        name=name,
        dataset={"path": "local/data", "revision": "1"},
        description="a local set",
        type=kind,
        category="t2t",
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=score,
    )


class LocalSts(AbsTaskSTS):
    """Sentence pairs that are on this machine."""

    metadata = metadata("LocalSTS", "STS", "cosine_spearman")
    pairs: StsData

    def load_data(self, **_: Any) -> None:
        rows = {
            "sentence1": self.pairs.first,
            "sentence2": self.pairs.second,
            "score": self.pairs.scores.tolist(),
        }
        self.dataset, self.data_loaded = {"test": Dataset.from_dict(rows)}, True


class LocalRetrieval(AbsTaskRetrieval):
    """A retrieval set that is on this machine."""

    metadata = metadata("LocalRetrieval", "Retrieval", "ndcg_at_10")
    ignore_identical_ids = True
    found: RetrievalData

    def load_data(self, **_: Any) -> None:
        def texts(rows: dict[str, str]) -> Dataset:
            return Dataset.from_list([{"id": name, "text": text} for name, text in rows.items()])

        split = {"corpus": texts(self.found.documents), "queries": texts(self.found.queries)}
        split |= {"relevant_docs": self.found.qrels, "top_ranked": None}
        self.dataset, self.data_loaded = {"default": {"test": split}}, True


def run(model: Any, task: Any, cache: Any = None) -> float:
    done = mteb.evaluate(model, [task], cache=cache, co2_tracker=False, show_progress_bar=False)
    return done.task_results[0].get_score()


@pytest.fixture
def folder(tmp_path: Path, make_tiny_model: Callable[..., LeapModel]) -> str:
    return str(eval_toys.save_toy(tmp_path / "toy", make_tiny_model(**eval_toys.RULE)))


@pytest.fixture
def task(tmp_path: Path) -> LocalSts:
    task = LocalSts()
    task.pairs = load_sts(str(eval_toys.write_pairs(tmp_path / "pairs.csv")))
    return task


@pytest.mark.parametrize("theta", ["config", 0.3, [None, 0.2, 0.4, None, 0.5, None], None])
def test_scores_and_layers_are_ours(folder: str, task: LocalSts, theta: Any) -> None:
    model = mteb.get_model(NAME, source=folder, exit_threshold=theta)
    assert isinstance(model, EncoderProtocol)
    assert np.isnan(model.mean_exit_layer)
    score = run(model, task)
    ours = evaluate_sts(load_encoder(folder), task.pairs, exit_threshold=theta)
    expected = ours["exits"] or ours["full_depth"]
    assert score == pytest.approx(expected["spearman"], abs=1e-4)
    assert model.mean_exit_layer == pytest.approx(expected.get("mean_exit_layer", 6))
    assert model.exit_histogram.sum() == 12


def test_results_of_each_rule_are_kept_apart(folder: str) -> None:
    names = {
        mteb.get_model(NAME, source=folder, **rule).mteb_model_meta.experiment_name
        for rule in ({}, {"exit_threshold": None}, {"exit_threshold": 0.9}, {"min_exit_layer": 4})
    }
    assert len(names) == 4
    assert all(name and "exit_threshold" in name for name in names)


def test_retrieval(folder: str, tmp_path: Path) -> None:
    task = LocalRetrieval()
    task.found = load_retrieval(str(eval_toys.write_beir(tmp_path / "beir")))
    model = mteb.get_model(NAME, source=folder)
    assert 0 < run(model, task) <= 1
    assert 2 <= model.mean_exit_layer < 6


def test_a_wrong_threshold_is_said_before_work(folder: str) -> None:
    with pytest.raises(UsageError, match="exit_threshold must be"):
        mteb.get_model(NAME, source=folder, exit_threshold=7)


def test_command_line_sets_the_threshold(
    folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = {}

    def mtebs_own() -> None:
        import sys

        seen["argv"] = sys.argv
        seen["model"] = mteb.get_model(NAME)

    monkeypatch.setattr("eval.mteb_model.mteb_main", mtebs_own)
    monkeypatch.setattr("sys.argv", ["pytest"])
    arguments = ["--exit_threshold", "0.93", "--source", folder, "run", "-m", NAME, "-t", "STSBenchmark"]
    assert main(arguments) == 0
    assert seen["argv"] == ["mteb", "run", "-m", NAME, "-t", "STSBenchmark"]
    assert seen["model"].rule["exit_threshold"] == 0.93
    assert main(["--source", "/nowhere", "run"]) == 2
    assert capsys.readouterr().err.startswith("python -m eval.mteb_model: error: source: '/nowhere'")


@pytest.mark.slow
@pytest.mark.real_weights
@pytest.mark.parametrize("theta", ["config", None])
def test_stsb_to_four_digits(repo_root: Path, theta: Any) -> None:
    task = LocalSts()
    try:
        task.pairs = load_sts("stsb")
    except UsageError:
        pytest.skip("no real data: set LEAP_DATA")
    model = mteb.get_model(NAME, source=str(repo_root), exit_threshold=theta)
    ours = evaluate_sts(load_encoder(str(repo_root)), task.pairs, exit_threshold=theta)
    expected = ours["exits"] or ours["full_depth"]
    assert run(model, task) == pytest.approx(expected["spearman"], abs=5e-5)


@pytest.mark.slow
@pytest.mark.real_weights
def test_scifact_to_four_digits(repo_root: Path) -> None:
    task = LocalRetrieval()
    try:
        task.found = load_retrieval("scifact")
    except UsageError:
        pytest.skip("no real data: set LEAP_DATA")
    model = mteb.get_model(NAME, source=str(repo_root), exit_threshold=None)
    ours = evaluate_retrieval(load_encoder(str(repo_root)), task.found, exit_threshold=None)
    assert run(model, task) == pytest.approx(ours["full_depth"]["ndcg@10"], abs=5e-4)
