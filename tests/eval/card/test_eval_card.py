"""model_card.md, docs/evidence.md and README.md's table say what results/ says, and nothing else."""

import re
from pathlib import Path
from typing import Any

import pytest
import tiny_results
from huggingface_hub import ModelCard
from tiny_results import Edit, edit, write, write_optional, write_required

from eval.__main__ import main
from eval.card.card import BEGIN, END, ENTRIES, render
from eval.card.results import read_results
from leap.errors import UsageError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with what a card cannot do without."""
    write_required(tmp_path)
    return tmp_path


@pytest.fixture
def full(tree: Path) -> Path:
    """The same with further sets, retrieval and times."""
    write_optional(tree / "results")
    return tree


def rendered(tree: Path) -> dict[str, str]:
    results = read_results(tree / "results", tree / "config.json")
    return render(results, (tree / "README.md").read_text())


def body(card: str) -> str:
    """The card below its metadata."""
    return card.split("\n---\n", maxsplit=1)[1]


def test_the_committed_files_are_what_the_results_say(
    repo_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["card", "--folder", str(repo_root), "--check"]) == 0, capsys.readouterr().err


def test_the_card_can_be_read_in_five_minutes(repo_root: Path) -> None:
    text = body((repo_root / "model_card.md").read_text(encoding="utf-8"))
    assert len(text.splitlines()) <= 200
    prose = re.sub(r"```.*?```|^\|.*$|\]\(.*?\)", "", text, flags=re.DOTALL | re.MULTILINE)
    assert len(prose.split()) <= 5 * 250
    assert text.count("\n|---|") == 1, "one table; the others are in docs/evidence.md"


def test_metadata_are_valid_and_have_the_figures(full: Path) -> None:
    text = rendered(full)["model_card.md"]
    card = ModelCard(text)  # raises where the YAML block is not valid
    assert card.content == text
    data = card.data
    assert (data.license, data.language, data.pipeline_tag) == ("apache-2.0", "en", "sentence-similarity")
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert data.base_model_relation in {"adapter", "merge", "quantized", "finetune"}
    assert data.model_name == "LEAP-MiniLM-L4"
    assert data.datasets == ["mteb/stsbenchmark-sts"]  # trained on; those only measured on are not
    assert data.to_dict()["leap"] == {"sha256": "w"} | tiny_results.RULE
    values = {(found.dataset_type, found.metric_type, found.metric_value) for found in data.eval_results}
    assert values == {
        ("mteb/stsbenchmark-sts", "spearman_cosine", 0.81),
        ("mteb/stsbenchmark-sts", "spearman_cosine", 0.7902),
        ("mteb/sts12-sts", "spearman_cosine", 0.81),
        ("mteb/sts12-sts", "spearman_cosine", 0.7902),
        ("BeIR/scifact", "cosine_ndcg@10", 0.61),
        ("BeIR/scifact", "cosine_ndcg@10", 0.58),
        ("BeIR/scifact", "cosine_ndcg@10", 0.6),
    }


def test_entries_are_of_benchmarks_measured_as_they_are(full: Path) -> None:
    files = {name: text for name, text in rendered(full).items() if name.startswith(ENTRIES)}
    assert {Path(name).name for name in files} == {"stsbenchmark-sts.yaml", "sts12-sts.yaml", "scifact.yaml"}
    assert "value: 0.7902" in files[f"{ENTRIES}/stsbenchmark-sts.yaml"]
    assert "value: 0.58" in files[f"{ENTRIES}/scifact.yaml"]  # documents of its own, not the teacher's

    def over_the_teacher(content: dict[str, Any]) -> None:
        settings = content["figures"]["settings"]
        content["figures"]["settings"] = {name: settings[name] for name in ("teacher", "teacher_documents")}

    edit(full / "results" / "retrieval-scifact.json", over_the_teacher)
    assert f"{ENTRIES}/scifact.yaml" not in rendered(full)


def test_the_table(full: Path) -> None:
    files = rendered(full)
    card = body(files["model_card.md"])
    assert "skips to layer 4" in card
    for row in (
        "| | all-MiniLM-L6-v2 | LEAP, full depth | **LEAP, default rule** | LEAP, all texts leap |",
        "| layers a text, STS Benchmark test | 4 | 4 | 2.25 | 2.00 |",
        "| STS Benchmark, Spearman | 0.8100 [0.100, 0.900] | 0.8100 [0.100, 0.900] | 0.7902 [0.700, 0.850] "
        "| 0.7770 [0.700, 0.800] |",
        "| STS12, Spearman | - | 0.8100 [0.100, 0.900] | 0.7902 [0.700, 0.850] | 0.7770 [0.700, 0.800] |",
        "| SciFact, nDCG@10 | 0.6600 | 0.6550 | 0.6000 | 0.5900 |",
        "| error on mixed texts, mean | 0 | 0.0100 | 0.0300 [0.029, 0.031] | 0.0500 |",
        "| error on mixed texts, share over 0.1 | 0 | 0.0000 | 0.0200 [0.010, 0.030] | 0.1000 |",
        "| error on SciFact queries, mean | 0 | 0.0100 | 0.0300 [0.029, 0.031] | 0.0500 |",
        "| ms for one text, sentences | 3.00 | 3.50 | 1.75 | - |",  # of the fastest in float32
        "| ms for one text, sentences, int8 | 1.00 | - | - | - |",
    ):
        assert row in card
    for row in (
        "| mixed | 3,000 | 0.0100 | 0.0500 | 0.0300 |",
        "| coin | 0.0400 | 0.1000 | 0.2000 | 0.0300 | -0.0110, -0.0090 |",
        "| code | 0.0200 | 0.0600 | 0.61 |",
    ):
        assert row in files["docs/evidence.md"]
    (full / "results" / "peers-cpu.json").unlink()
    card = body(rendered(full)["model_card.md"])
    assert "| ms for one text, 16 tokens | - | 4.00 | 2.50 | - |" in card
    assert "77.00" not in card


def test_readme_gets_the_same_table(full: Path) -> None:
    files = rendered(full)
    readme = files["README.md"]
    table = readme.partition(BEGIN)[2].partition(END)[0]
    assert table.startswith("| |")
    assert table in files["model_card.md"]
    assert (readme.partition(BEGIN)[0], readme.partition(END)[2]) == ("# Tree\n\n", "\nThe end.\n")
    (full / "README.md").write_text("# Tree\n")
    with pytest.raises(UsageError, match=r"README\.md: has no place for the table"):
        rendered(full)


def test_what_was_not_measured_is_left_out(full: Path) -> None:
    with_all = rendered(full)
    for name in ("retrieval-scifact", "front", "latency-cpu", "peers-cpu", "sts-STS12-test"):
        (full / "results" / f"{name}.json").unlink()
    files = rendered(full)
    for words in ("SciFact", "ms for one text", "Times:", "STS12"):
        assert words in with_all["model_card.md"]
        assert words not in files["model_card.md"]
    for words in ("## Retrieval", "## Latency", "## Which runtime", "peers-cpu.png"):
        assert words in with_all["docs/evidence.md"]
        assert words not in files["docs/evidence.md"]
    assert "## Sentence similarity" in files["docs/evidence.md"]


def test_a_front_of_another_threshold_is_refused(full: Path) -> None:
    change = _set("figures", "chosen_on", "default", "exit_threshold", value=0.5)
    edit(full / "results" / "front.json", change)
    with pytest.raises(UsageError, match=r"front\.json is not of config\.json's exit rule"):
        rendered(full)


def test_licences_of_sources(tree: Path) -> None:
    files = rendered(tree)
    assert "[anli]" not in files["docs/evidence.md"], "excluded by every run"
    assert "[gsm8k](https://github.com/openai/grade-school-math)" in files["docs/evidence.md"]
    assert "restrict commercial use: [asset]" in files["model_card.md"]
    assert "research only" not in files["model_card.md"]
    write(tree / "results" / "train-more.json", tiny_results.run(exclude_sources=["anli"]))
    assert "(non-commercial research only)" in rendered(tree)["model_card.md"]
    for name in ("more", "whole"):
        write(tree / "results" / f"train-{name}.json", tiny_results.run(exclude_sources=["nobody"]))
    with pytest.raises(UsageError, match=r"sources\.csv: has no row for nobody"):
        rendered(tree)


def test_an_averages_parts_are_named(tree: Path) -> None:
    parts = [{"name": "start", "sha256": "s", "share": 0.3}, {"name": "run", "sha256": "r", "share": 0.7}]
    average = {
        "models": {"model": {"sha256": "w"}},
        "average_of": parts,
        "provenance": {"command": "average"},
    }
    write(tree / "results" / "average.json", average)
    assert "in these shares: 0.3 of `start`, 0.7 of `run`." in rendered(tree)["docs/evidence.md"]
    average["models"]["model"]["sha256"] = "x"
    write(tree / "results" / "average.json", average)
    with pytest.raises(UsageError, match=r"average\.json is of other weights"):
        rendered(tree)


def _set(*path: str, value: object) -> Edit:
    def change(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("retrieval-scifact", _set("models", "model", "sha256", value="x"), "is of other weights than sts-"),
        (
            "sts-stsb-test-teacher",
            _set("data", value={"name": "y", "sha256": "y"}),
            r"is of other data than sts-stsb-test\.json",
        ),
        ("peers-cpu", _set("figures", "exit_threshold", value=0.5), "is not of config.json's exit rule"),
        ("latency-cpu", _set("figures", "min_exit_layer", value=3), "is not of config.json's exit rule"),
        ("sts-STS12-test", _set("figures", "exits", "exit_threshold", value=0.5), "config.json's exit rule"),
        ("retrieval-scifact", _set("figures", "exit_rule", "exit_patience", value=2), "json's exit rule"),
    ],
)
def test_what_disagrees_is_refused(full: Path, name: str, change: Edit, complaint: str) -> None:
    edit(full / "results" / f"{name}.json", change)
    with pytest.raises(
        UsageError, match=rf"{name}\.json .*{complaint}.*: make it again with `python -m eval"
    ):
        rendered(full)


def test_what_is_missing_is_named(tree: Path) -> None:
    (tree / "results" / "sts-stsb-test.json").write_text("{")
    with pytest.raises(UsageError, match=r"sts-stsb-test\.json is not JSON"):
        rendered(tree)
    (tree / "results" / "sts-stsb-test.json").unlink()
    with pytest.raises(UsageError, match="is missing: make it with `python -m eval sts"):
        rendered(tree)
    (tree / "config.json").unlink()
    with pytest.raises(UsageError, match="--config: there is no file"):
        rendered(tree)
    with pytest.raises(UsageError, match="--results: there is no folder"):
        read_results(tree / "elsewhere", tree / "config.json")


def test_check_finds_what_is_stale(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["card", "--folder", str(full)]
    assert main([*command, "--check"]) == 1
    assert "not what results/ say: model_card.md, docs/evidence.md, " in capsys.readouterr().err
    (full / ENTRIES).mkdir()
    (full / ENTRIES / "sts99.yaml").touch()
    assert main(command) == 0
    assert not (full / ENTRIES / "sts99.yaml").exists(), "an entry of no result"
    assert main([*command, "--check"]) == 0
    card = full / "model_card.md"
    card.write_text(card.read_text().replace("0.7902", "0.7903"))
    assert main([*command, "--check"]) == 1
    assert "not what results/ say: model_card.md: run" in capsys.readouterr().err
    assert main(command) == 0
    assert "written: model_card.md" in capsys.readouterr().out
