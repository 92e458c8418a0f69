"""The model card says what results/ says, leaves out what was not measured, and its words follow figures."""

import re
from pathlib import Path
from typing import Any

import pytest
from card_toys import Edit, edit, rendered, run, write, write_optional, write_required
from huggingface_hub import ModelCard

from eval.__main__ import main
from eval.card import card_facts
from eval.card.card import ENTRIES, TEMPLATE, render
from eval.card.card_results import REQUIRED, read_results
from leap.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of the required results, config.json beside it."""
    return write_required(tmp_path)


@pytest.fixture
def full(folder: Path) -> Path:
    """The same with a grid on the test split, retrieval, latency and a picture."""
    write_optional(folder)
    return folder


def test_the_committed_card_is_what_the_results_say(repo_root: Path) -> None:
    if not (repo_root / "results").is_dir():
        pytest.skip("no results/ here")
    card = render(read_results(repo_root / "results", repo_root / "config.json"))
    remedy = "run python -m eval card, and commit what it writes"
    assert (repo_root / "model_card.md").read_text(encoding="utf-8") == card.text, remedy
    entries = {path.name: path.read_text(encoding="utf-8") for path in (repo_root / ENTRIES).iterdir()}
    assert entries == card.entries, remedy


def test_metadata_validates_and_has_the_figures(full: Path) -> None:
    text = rendered(full)
    card = ModelCard(text)  # raises where the YAML block is not valid
    assert card.content == text
    data = card.data
    assert (data.license, data.language, data.pipeline_tag) == ("apache-2.0", "en", "sentence-similarity")
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert data.base_model_relation in {"adapter", "merge", "quantized", "finetune"}
    assert data.model_name == "LEAP-MiniLM-L4"
    assert data.datasets == ["mteb/stsbenchmark-sts"]  # trained on; those only measured on are not
    values = [(found.dataset_type, found.metric_type, found.metric_value) for found in data.eval_results]
    assert values == [
        ("mteb/stsbenchmark-sts", "spearman_cosine", 0.81),
        ("mteb/stsbenchmark-sts", "spearman_cosine", 0.7902),
        ("BeIR/scifact", "cosine_ndcg@10", 0.61),
        ("BeIR/scifact", "cosine_ndcg@10", 0.59),
        ("BeIR/scifact", "cosine_ndcg@10", 0.58),
        ("BeIR/scifact", "cosine_ndcg@10", 0.6),
    ]


def test_entries_are_of_benchmarks_measured_as_they_are(folder: Path, full: Path) -> None:
    entries = render(read_results(full, full.parent / "config.json")).entries
    assert set(entries) == {"stsbenchmark-sts.yaml", "scifact.yaml"}
    assert "value: 0.7902" in entries["stsbenchmark-sts.yaml"]
    assert "value: 0.58" in entries["scifact.yaml"]  # documents with exits too, and not the teacher's

    def over_the_teacher(content: dict[str, Any]) -> None:
        settings = content["figures"]["settings"]
        content["figures"]["settings"] = {name: settings[name] for name in ("teacher", "teacher_documents")}

    edit(full / "retrieval-scifact.json", over_the_teacher)
    results = read_results(full, full.parent / "config.json")
    assert set(render(results).entries) == {"stsbenchmark-sts.yaml"}
    assert "Where the documents are embedded by this model" not in rendered(full)


def test_what_was_not_measured_is_left_out(folder: Path) -> None:
    text = rendered(folder)
    for words in ("## Latency", "nDCG@10", "Speedup", "![", "SciFact", "other thresholds"):
        assert words not in text
    assert "Time was not measured for this version" in text


def test_the_table_has_thresholds_cuts_and_teacher(full: Path) -> None:
    header, rows = card_facts.table(read_results(full, full.parent / "config.json"))
    assert header[1:4] == ["mean layer", "STS-B test, Spearman", "SciFact nDCG@10"]
    assert header[4] == "speedup, P, 1 thread, batch 1"
    assert rows == [
        ["teacher", "4", "0.8100", "0.6600", "-"],
        ["full depth", "4", "0.8100", "0.6200", "1"],
        ["exits, theta 0.5", "2.00", "0.7501", "-", "-"],
        ["**exits, theta 0.88**", "2.50", "0.7902", "0.6000 (mean layer 2.50)", "1.35 to 1.45"],
        ["exits, theta 0.95", "3.50", "0.8056", "-", "-"],
        ["cut after layer 1", "1", "0.6000", "0.2000", "-"],
        ["cut after layer 2", "2", "0.7500", "0.5000", "-"],
        ["cut after layer 3", "3", "0.8000", "0.5500", "-"],
    ]
    text = rendered(full)
    for row in rows:
        assert f"| {' | '.join(row)} |" in text


def test_the_table_has_what_further_thresholds_give(full: Path) -> None:
    def timed(content: dict[str, Any]) -> None:
        points = [{"exit_threshold": 0.95, "speedup": speedup} for speedup in (1.15, 1.25)]
        content["figures"]["thresholds"] = points

    def searched(content: dict[str, Any]) -> None:
        content["figures"]["grid"] = [{"exit_threshold": 0.95, "ndcg@10": 0.61, "mean_query_layer": 3.25}]

    edit(full / "latency.json", timed)
    edit(full / "retrieval-scifact.json", searched)
    _, rows = card_facts.table(read_results(full, full.parent / "config.json"))
    assert rows[2][0] == "**exits, theta 0.88**"  # 0.5, which was neither timed nor searched with, is out
    assert rows[3] == ["exits, theta 0.95", "3.50", "0.8056", "0.6100 (mean layer 3.25)", "1.15 to 1.25"]


def test_latency_has_its_conditions_and_its_slow_rows(full: Path) -> None:
    text = rendered(full)
    assert "**P, 1 thread**: float32, torch 9.9" in text
    assert "joined" not in text
    row = "| 32 | 64 | 1,000 | 2.50 (3.25) | 1.25 / 1.25 / 1.25 | 1.25 / 1.25 / 1.25 | 2.50 / 3.50 / 4.50 |"
    assert f"{row} 0.05 | 0.97 (1.10) | 1.60 |" in text
    assert "exits were no faster** on P, 1 thread: batch 32 of 64 tokens (0.97)." in text
    assert "above the possible one" not in text

    def disturb(content: dict[str, Any]) -> None:
        content["figures"]["rows"][2].update(joined=True, share_of_possible=1.2)

    edit(full / "latency.json", disturb)
    text = rendered(full)
    assert "| 32 | 64* | 1,000 |" in text
    assert "joined of several" in text
    assert "above the possible one" in text


@pytest.mark.parametrize(
    ("spearman", "verdict", "gain"),
    [
        (0.75004, "exits do not beat the cut", "-0.0250"),  # as printed, the cut's own score
        (0.7749, "exits are above the cut, not above the line between cuts", "-0.0001"),
        (0.7751, "exits are above both", "+0.0001"),
    ],
)
def test_words_follow_the_fixed_cut(folder: Path, spearman: float, verdict: str, gain: str) -> None:
    edit(folder / "sts-stsb-test.json", lambda content: content["figures"]["exits"].update(spearman=spearman))
    text = rendered(folder)
    assert f"| 0.7500 (layer 2) | 0.7750 | {verdict} |" in text
    assert f"{gain} (STS Benchmark, Spearman)." in text
    assert ("that is no gain" in text) == (verdict != "exits are above both")
    assert ("so\n  on STS Benchmark;" in text) == (verdict != "exits are above both")


def test_thresholds_by_layer_are_written_out(folder: Path) -> None:
    by_layer = [None, 0.9, 0.8, None]
    edit(folder.parent / "config.json", lambda content: content.update(exit_threshold=by_layer))
    edit(
        folder / "sts-stsb-test.json",
        lambda content: content["figures"]["exits"].update(exit_threshold=by_layer),
    )
    edit(
        folder / "pareto-stsb-validation.json",
        lambda content: content["figures"]["chosen"].update(exit_threshold=by_layer),
    )
    assert "| **exits, theta none, 0.9, 0.8, none by layer** | 2.50 |" in rendered(folder)


def test_training_runs_come_in_their_order(folder: Path) -> None:
    (folder / "train-whole.json").unlink()
    write(folder / "train-b.json", run(None))
    write(folder / "train-a.json", run("runs/b/model", student_layers=None, frozen_layers=2, steps=50))
    text = rendered(folder)
    assert "| | `b` | `a` |" in text
    assert "| starts from | layers `1,3` of the teacher | all layers of run `b` |" in text
    assert "| not trained | word embeddings | word embeddings, layers 1 to 2 |" in text
    assert "| steps | 100 of 64 texts | 50 of 64 texts |" in text
    assert "9,600 texts in all" in text
    assert "average of two runs" not in text
    write(folder / "average.json", {"first": "runs/b/model", "second": "runs/a/model", "share": 0.6})
    assert "average of two runs in a straight line: 0.4 of `b`, 0.6 of `a`." in rendered(folder)


def test_sources_that_were_left_out_and_that_were_not(folder: Path) -> None:
    text = rendered(folder)
    assert "Left out for their non-commercial licences: anli (CC BY-NC), dream (non-commercial" in text
    restricted = text.partition("**Not left out")[2].partition("\n")[0]
    assert "[asset](https://github.com/facebookresearch/asset) (CC BY-NC)" in restricted
    assert "dream" not in restricted
    every = ["anli", "asset", "dream", "financial-phrasebank", "progit2"]
    edit(folder / "train-whole.json", lambda content: content["run"].update(exclude_sources=every))
    assert "Not left out" not in rendered(folder)
    edit(folder / "train-whole.json", lambda content: content["run"].update(exclude_sources=["nothing"]))
    with pytest.raises(UsageError, match=r"card_sources\.csv: has no row for nothing"):
        rendered(folder)


@pytest.mark.parametrize("name", [*REQUIRED, "train-*.json"])
def test_a_missing_file_is_one_line_with_its_command(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for path in folder.glob(name):
        path.unlink()
    target = folder.parent / "model_card.md"
    arguments = ["--results", str(folder), "--config", str(folder.parent / "config.json")]
    assert main(["card", *arguments, "--output", str(target)]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert f"{name} is missing: " in printed
    assert REQUIRED.get(name, "log.json") in printed
    assert not target.exists()


def no_choice(content: dict[str, Any]) -> None:
    del content["figures"]["chosen"]


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("latency.json", lambda c: c["models"]["model"].update(sha256="old"), "are of different weights"),
        ("retrieval-scifact.json", lambda c: c["models"]["model"].update(sha256="old"), "different weights"),
        (
            "retrieval-scifact.json",
            lambda c: c["figures"]["exit_rule"].update(exit_threshold=0.9),
            "exit rule",
        ),
        ("latency.json", lambda c: c["figures"].update(min_exit_layer=3), "exit rule"),
        ("pareto-stsb-test.json", lambda c: c["data"].update(sha256="other"), "of other data than"),
        ("sts-stsb-test-teacher.json", lambda c: c["data"].update(sha256="other"), "of other data than"),
        (
            "pareto-stsb-validation.json",
            lambda c: c["data"].update(sha256="of stsb/test"),
            "is of the test split",
        ),
        ("pareto-stsb-validation.json", no_choice, "exit rule .*--choose"),
        ("sts-stsb-test.json", lambda c: c["figures"].update(exits=None), "exit rule .*python -m eval sts"),
        ("../config.json", lambda c: c.update(exit_threshold=None), "has no exit_threshold"),
    ],
)
def test_results_that_do_not_go_together(full: Path, name: str, change: Edit, complaint: str) -> None:
    edit(full / name, change)
    with pytest.raises(UsageError, match=complaint):
        rendered(full)


def test_a_broken_file_is_named(full: Path) -> None:
    (full / "latency.json").write_text("{")
    with pytest.raises(UsageError, match=r"latency\.json is no JSON"):
        rendered(full)


def test_the_command_writes_card_and_entries(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = folder.parent / "out" / "card.md"
    arguments = ["--results", str(folder), "--config", str(folder.parent / "config.json")]
    assert main(["card", *arguments, "--repository", "me/mine", "--output", str(target)]) == 0
    assert 'MODEL = "me/mine"' in target.read_text()
    assert [path.name for path in (target.parent / ENTRIES).iterdir()] == ["stsbenchmark-sts.yaml"]
    assert str(target) in capsys.readouterr().out


def test_no_figure_is_typed_into_the_template() -> None:
    words = "".join(path.read_text(encoding="utf-8") for path in TEMPLATE.parent.glob("card_template*.md"))
    assert set(re.findall(r"\d+\.\d+", words)) == {"2.0"}  # Apache 2.0


@pytest.mark.slow
@pytest.mark.real_weights
def test_the_snippets_run(folder: Path, repo_root: Path) -> None:
    pytest.importorskip("sentence_transformers")
    if not (repo_root / "model.safetensors").is_file():
        pytest.skip("no checkpoint at the root yet")
    blocks = re.findall(r"```python\n(.*?)```", rendered(folder), flags=re.DOTALL)
    assert len(blocks) == 3
    code = "".join(blocks).replace("OWNER/LEAP-MiniLM-L4", str(repo_root))
    names: dict[str, Any] = {}
    exec(compile(code, "model_card.md", "exec"), names)
    assert names["vectors"].shape[0] == len(names["texts"])
    assert type(names["plain"]).__name__ == "BertModel"
