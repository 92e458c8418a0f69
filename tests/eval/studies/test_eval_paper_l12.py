"""`paper_l12`, `seeds` and the trainings under them, with a teacher of toy size."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import eval_toys
import pytest

import eval.studies.depth_scores
import eval.studies.paper_l12
import eval.studies.seeds
import eval.studies.trainings
from eval.__main__ import main
from eval.studies.paper_published import DIFFERENCES, PUBLISHED
from eval.studies.trainings import trained
from leap.distill.recipes import PRESETS
from leap.distill.students import make_student, parse_layer_starts
from leap.errors import UsageError
from modeling_leap import LeapModel


@pytest.fixture
def toy(tmp_path: Path, make_tiny_model: Callable[..., LeapModel], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a teacher, texts and pairs."""
    monkeypatch.setenv("LEAP_DATA", str(tmp_path))
    eval_toys.write_pairs(tmp_path / "stsb" / "test.csv")
    rows = [f"{second},{first},{score}" for first, second, score in reversed(eval_toys.PAIRS)]
    (tmp_path / "stsb" / "validation.csv").write_text("\n".join(["sentence1,sentence2,score", *rows]) + "\n")
    words = eval_toys.WORDS
    texts = [" ".join(words[(i * j) % len(words)] for j in range(1, 3 + i % 6)) for i in range(40)]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    eval_toys.save_toy(tmp_path / "teacher", make_tiny_model(vocab_size=len(eval_toys.toy_tokenizer())))
    return tmp_path


@pytest.fixture
def untrained(toy: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """In the place of training, students as they start; the arguments that they were asked for with."""
    asked: list[list[str]] = []

    def start(folder: Path, arguments: Sequence[str]) -> Path:
        asked.append([folder.name, *arguments])
        teacher = LeapModel.from_pretrained(toy / "teacher")
        preset = "--preset" in arguments
        spec = PRESETS["paper-l12"]["student_layers"] if preset else "1,2,3,4"
        student = make_student(teacher, parse_layer_starts(str(spec)))
        student.config.min_exit_layer = 6 if preset else None
        return eval_toys.save_toy(folder, student)

    for module in (eval.studies.paper_l12, eval.studies.seeds):
        monkeypatch.setattr(module, "trained", start)
    monkeypatch.setattr(eval.studies.paper_l12, "BATCH_SIZES", (1, 8))  # of the few toy sentences
    monkeypatch.setattr(eval.studies.paper_l12, "TOKENS", 5)
    monkeypatch.setattr(eval.studies.depth_scores, "SHARES", (None, 0.5, 1.0))
    monkeypatch.setattr(eval.studies.seeds, "DEFAULT_THETAS", (0.5, 0.9))
    return asked


def run(toy: Path, line: str) -> dict[str, Any]:
    output = toy / "out.json"
    common = f" --teacher {toy}/teacher --data {toy}/texts.txt --max_steps 3 --folder {toy}/runs --device cpu"
    assert main([*(line + common).split(), "--training", "--max_length 16", "--output", str(output)]) == 0
    return json.loads(output.read_text())["figures"]


def test_the_protocol_beside_the_paper(
    toy: Path, untrained: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    figures = run(toy, "paper_l12 --leap_recipe --seeds 0,1 --rounds 2")
    common = ["--preset", "paper-l12", "--teacher", f"{toy}/teacher", "--data", f"{toy}/texts.txt"]
    common += ["--max_steps", "3", "--seed", "0", "--max_length", "16"]
    assert untrained[0] == ["no-L_exit-seed-0", *common, "--beta", "0"]
    assert untrained[2] == ["LEAP-seed-0", *common]
    assert untrained[4][-4:] == ["--recipe", "leap", "--learning_rate", "5e-4"]
    assert list(figures["runs"]) == ["no L_exit", "LEAP", "recipe leap"]
    run_of = figures["runs"]["LEAP"]
    # The start computes what the teacher does, so its last layer scores what the teacher's does.
    assert run_of["full_depth"] == {
        "mean": pytest.approx(figures["teacher"]),
        "sd": pytest.approx(0, abs=1e-6),
    }
    layers = run_of["seeds"][0]["layers"]
    assert [row["layer"] for row in layers] == list(range(6, 13))
    assert layers[-1]["cosine"] == pytest.approx(1)
    exited = [row["exited"] for row in layers]
    assert exited == sorted(exited)
    assert exited[-1] == 1
    assert [point["exit_threshold"] for point in run_of["seeds"][0]["thetas"]] == [0.90, 0.95, 0.99]
    assert [row["batch_size"] for row in run_of["time"]] == [1, 8]
    printed = capsys.readouterr().out
    assert "0.760 ± 0.006" in printed  # the paper's
    assert all(words in printed for words in DIFFERENCES)


def test_published_figures_agree_with_one_another() -> None:
    """Transcription: layer ratios are depth over mean exit layer, speedups full depth over early exit."""
    paper = PUBLISHED["LEAP"]
    for _, ratio, depth in paper["thetas"].values():
        assert ratio == pytest.approx(12 / depth, abs=0.03)
    for full, early, speedup in paper["time"].values():
        assert speedup == pytest.approx(full / early, abs=0.01)
    assert paper["exited_soon"] == paper["exited"][7]
    assert (paper["layer_ratio"], paper["mean_exit_layer"]) == paper["thetas"][0.95][1:]


def test_seeds(toy: Path, untrained: list[list[str]]) -> None:
    figures = run(toy, "seeds --seeds 0,1,2 --max_mean_layer 3.5")
    assert [asked[0] for asked in untrained] == ["seed-0", "seed-1", "seed-2"]
    assert [asked[asked.index("--seed") + 1] for asked in untrained] == ["0", "1", "2"]
    assert len(figures["static"]) == 4
    assert figures["full_depth"] == figures["static"][-1]
    first = figures["runs"][0]["exits"]
    assert figures["with_exits"]["mean"] == pytest.approx(first["spearman"])  # all three are the same model
    assert figures["with_exits"]["sd"] == pytest.approx(0, abs=1e-9)
    gain = first["spearman"] - first["static_at_mean_layer"]["spearman"]
    assert figures["gain"]["mean"] == pytest.approx(gain)


def test_a_run_is_trained_once(toy: Path) -> None:
    """By train_leap.py itself."""
    arguments = (
        f"--teacher {toy}/teacher --data {toy}/texts.txt --cache_dir {toy}/cache --batch_size 8".split()
    )
    arguments += ["--max_steps", "2"]
    model = trained(toy / "run", arguments)
    before = (model / "model.safetensors").stat().st_mtime_ns
    assert trained(toy / "run", arguments) == model
    assert (model / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match=r"--folder: .* holds a run of"):
        trained(toy / "run", [*arguments, "--seed", "1"])


def test_what_training_says_last_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import sys; print('x', file=sys.stderr); sys.exit('train_leap.py: error: no such thing')"
    (tmp_path / "train_leap.py").write_text(script)
    monkeypatch.setattr(eval.studies.trainings, "ROOT", tmp_path)
    with pytest.raises(UsageError, match=r"^--training: .* ended with: train_leap.py: error: no such thing$"):
        trained(tmp_path / "run", ["--max_steps", "2"])
    assert not (tmp_path / "run" / eval.studies.trainings.DONE).exists()


def test_a_seed_twice_is_refused(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = (
        f"seeds --teacher {toy}/teacher --data {toy}/texts.txt --max_steps 3 --seeds 1,1 --folder {toy}/runs"
    )
    assert main(line.split()) == 2
    assert "--seeds: [1, 1] names a seed twice" in capsys.readouterr().err
