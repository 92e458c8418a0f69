"""The studies and the trainings under them, with a tiny teacher."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_data

from eval.__main__ import main
from eval.studies import trainings
from eval.studies.ablation import VARIANTS, over_seeds
from eval.studies.paper_published import DIFFERENCES, PUBLISHED
from eval.studies.trainings import trained
from leap.distill.options import parse, set_exit_rule
from leap.distill.students import make_student, parse_layer_starts
from leap.errors import UsageError
from modeling_leap import LeapModel


@pytest.fixture
def folder(
    tmp_path: Path, make_tiny_model: Callable[..., LeapModel], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with a teacher, texts, pairs and retrieval sets."""
    monkeypatch.setenv("LEAP_DATA", str(tiny_data.write_data(tmp_path / "data")))
    (tmp_path / "texts.txt").write_text(
        "\n".join(f"{a} {b}" for a in tiny_data.WORDS for b in ("a cat", "rain"))
    )
    model = make_tiny_model(vocab_size=len(tiny_data.tiny_tokenizer()), max_position_embeddings=64)
    tiny_data.save_tiny(tmp_path / "teacher", model)
    return tmp_path


@pytest.fixture
def untrained(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """In the place of training, students as they start; the arguments that they were asked for with."""
    asked: list[list[str]] = []

    def start(model: Path, arguments: Sequence[str]) -> Path:
        asked.append([model.name, *arguments])
        options, objective = parse("", [*arguments, "--output_dir", str(model)])
        layers = parse_layer_starts(options.student_layers) if options.student_layers else None
        student = make_student(LeapModel.from_pretrained(folder / "teacher"), layers)
        set_exit_rule(student.config, options, objective)
        return tiny_data.save_tiny(model, student)

    monkeypatch.setattr(trainings, "trained", start)
    return asked


def run(folder: Path, *line: str) -> dict[str, Any]:
    output = folder / "out.json"
    common = ["--teacher", str(folder / "teacher"), "--texts", str(folder / "texts.txt"), "--device", "cpu"]
    common += ["--max_tokens", "100", "--folder", str(folder / "runs"), "--training", "--max_length 16"]
    assert main([*line, *common, "--output", str(output)]) == 0
    return json.loads(output.read_text())["figures"]


def test_every_variant_is_a_run_of_the_trainer(folder: Path, untrained: list[list[str]]) -> None:
    figures = run(folder, "ablation", "--max_texts", "40")
    assert list(figures["variants"]) == list(VARIANTS)
    assert len(untrained) == len(VARIANTS)
    for name, row in figures["variants"].items():
        (sets,) = row["runs"]
        assert list(sets) == ["STS-B validation", "SciFact queries", "SciFact documents", "mixed"], name
        # The student of all layers starts as its teacher, and a shorter one does not.
        error = sets["mixed"]["full_depth"]["mean"]
        assert (error > 1e-3) == name.startswith("student of"), name
    mixed = figures["variants"]["leap"]["runs"][0]["mixed"]
    assert mixed["all_leap"]["mean"] > mixed["by_rule"]["mean"] > mixed["full_depth"]["mean"]
    assert 3 < mixed["layers_run"] < 4
    assert -1 <= mixed["rank_correlation"] <= 1


def test_the_spread_over_seeds(folder: Path, untrained: list[list[str]]) -> None:
    variants, seeds = ["leap", "no signal"], ["0", "1", "2"]
    figures = run(folder, "ablation", "--max_texts", "40", "--variants", *variants, "--seeds", *seeds)
    names = [f"{name}-seed-{seed}" for name in ("leap", "no-signal") for seed in seeds]
    assert [asked[0] for asked in untrained] == names
    assert [asked[asked.index("--seed") + 1] for asked in untrained] == seeds * 2
    row = figures["variants"]["leap"]
    mean = row["over_seeds"]["mixed"]["all_leap"]["mean"]
    assert mean["mean"] == pytest.approx(row["runs"][0]["mixed"]["all_leap"]["mean"])  # all start alike
    assert mean["sd"] == pytest.approx(0, abs=1e-9)


def test_mean_and_deviation_of_nested_figures() -> None:
    found = over_seeds([{"a": {"b": 1.0}}, {"a": {"b": 3.0}}])
    assert found == {"a": {"b": {"mean": 2.0, "sd": pytest.approx(2**0.5)}}}
    assert over_seeds([{"a": 1.0}]) == {"a": {"mean": 1.0, "sd": None}}


def test_the_protocol_beside_the_paper(
    folder: Path, untrained: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    figures = run(folder, "paper_l12", "--seeds", "0", "1")
    assert [asked[0] for asked in untrained][:3] == ["no-L-exit-seed-0", "no-L-exit-seed-1", "LEAP-seed-0"]
    assert list(figures["runs"]) == ["no L_exit", "LEAP", "recipe leap"]
    for run_of in figures["runs"].values():
        # The start computes what the teacher does, so full depth scores what the teacher does.
        assert run_of["over_seeds"]["full_depth"]["mean"] == pytest.approx(figures["teacher"])
        assert run_of["runs"][0]["cosine"]["12"] == pytest.approx(1)
    ours = figures["runs"]["recipe leap"]["runs"][0]
    assert ours["soon"] > 0.5  # of texts like those that theta was chosen on
    assert ours["layers_run"] == pytest.approx(6 * ours["soon"] + 12 * (1 - ours["soon"]))
    printed = capsys.readouterr().out
    assert "0.7600" in printed  # the paper's
    assert all(words in printed for words in DIFFERENCES)


def test_published_figures_agree_with_one_another() -> None:
    """Transcription: layer ratios are depth over mean exit layer, speedups full depth over early exit."""
    paper = PUBLISHED["LEAP"]
    for _, ratio, depth in paper["thetas"].values():
        assert ratio == pytest.approx(12 / depth, abs=0.03)
    for full, early, speedup in paper["time"].values():
        assert speedup == pytest.approx(full / early, abs=0.01)
    assert (paper["layer_ratio"], paper["layers_run"]) == paper["thetas"][0.95][1:]


def test_a_run_is_trained_once(folder: Path) -> None:
    """By train_leap.py itself."""
    arguments = ["--teacher", f"{folder}/teacher", "--data", f"{folder}/texts.txt", "--max_length", "16"]
    arguments += ["--cache_dir", f"{folder}/cache", "--max_tokens", "100"]
    model = trained(folder / "run", arguments)
    before = (model / "model.safetensors").stat().st_mtime_ns
    assert trained(folder / "run", arguments) == model
    assert (model / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match=r"--folder: .* holds a run of"):
        trained(folder / "run", [*arguments, "--seed", "1"])


def test_what_training_says_last_is_the_reason(tmp_path: Path) -> None:
    reason = r"train_leap.py: error: --max_tokens: must be at least 1, got 0\.0"
    with pytest.raises(UsageError, match=rf"^--training: .* ended with: {reason}$"):
        trained(tmp_path / "run", ["--max_tokens", "0"])
    assert not (tmp_path / "run" / trainings.DONE).exists()


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("--seeds 1 1", "--seeds: [1, 1] names a seed twice"),
        ("--variants best", "--variants: no 'best'; there are leap, "),
        ("--max_tokens 0", "--max_tokens"),
        ("--teacher ./nowhere", "--teacher"),
    ],
)
def test_one_line_for_a_wrong_argument(
    folder: Path, line: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--teacher", str(folder / "teacher"), "--texts", str(folder / "texts.txt")]
    common += ["--folder", str(folder / "runs")]
    assert main(["ablation", *common, "--max_tokens", "3", *line.split()]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1
