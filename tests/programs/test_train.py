"""train_leap.py as users start it: tiny models, a real tokenizer."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from training import TEXTS, Run, launched, rows, weights
from transformers import AutoModel

import train_leap
from leap.distill.options import parse
from leap.distill.recipes import PAPER
from leap.distill.students import parse_layer_starts


def without_speed(log: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if "per_second" not in key} for row in log]


def test_a_run_from_the_command_line(work: Path, repo_root: Path) -> None:
    arguments = ["--eval_data", str(work / "sts.csv"), "--eval_steps", "3", "--exit_threshold", "0.6"]
    folder = launched(work, repo_root, "launched", *arguments)
    log = rows(folder)
    terms = {"loss", "final", "exit_teacher", "token_final", "token_exit", "signal"}
    assert terms | {"tokens", "tokens_per_second", "learning_rate"} < set(log[0])
    assert {"error/full", "error/exits", "spearman/full", "signal/rank_correlation"} < set(log[-1])
    model = AutoModel.from_pretrained(folder / "model", trust_remote_code=True)
    assert type(model).__name__ == "LeapModel"
    config = model.config
    assert (config.landing_layer, config.min_exit_layer, config.max_exit_layer) == (3, 1, 1)
    assert (config.exit_threshold, config.num_hidden_layers) == (0.6, 4)


@pytest.mark.parametrize("accumulation", ["1", "2"])
def test_a_resumed_run_ends_as_an_unbroken_one(
    work: Path, run: Run, accumulation: str, recwarn: pytest.WarningsRecorder
) -> None:
    arguments = ["--epochs", "3", "--checkpoint_minutes", "0", "--eval_data", str(work / "sts.csv")]
    arguments += ["--eval_steps", "4", "--gradient_accumulation_steps", accumulation]
    whole = run(f"whole{accumulation}", *arguments)
    log = rows(whole)
    assert log[0]["loss"] > log[-2]["loss"]
    with pytest.raises(SystemExit, match=r"--output_dir: .* holds a run already"):
        run(f"whole{accumulation}", *arguments)

    # As if killed in the middle, the newest checkpoint half written over with something else.
    resumed = work / f"resumed{accumulation}"
    checkpoints = sorted((whole / "checkpoints").iterdir())
    shutil.copytree(whole / "checkpoints", resumed / "checkpoints")
    (resumed / "checkpoints" / checkpoints[-1].name / "model.safetensors").write_bytes(b"torn")
    run(resumed.name, *arguments, "--resume")
    assert any("going back to the one before" in str(warning.message) for warning in recwarn)
    first, second = weights(whole), weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert without_speed(rows(resumed)) == without_speed(log)  # the rows before the kill are still there
    # A checkpoint is a model to start another run from.
    again = run(f"again{accumulation}", "--student", str(whole / "checkpoints" / checkpoints[-1].name))
    assert rows(again)[0]["loss"] < log[0]["loss"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--learning_rate", "0.1"], "learning_rate"),
        (["--text_columns", "other"], "texts"),
        (["--exclude_sources", "b"], "texts"),
        (["--max_texts", "30"], "texts"),
        (["--signal", "7"], "objective"),
        (["--student_layers", "1,2,3,4"], "student"),
        (["--recipe", "paper", "--max_exit_layer", "2"], "max_exit_layer"),
    ],
)
def test_another_run_is_not_taken_for_this_one(
    work: Path, run: Run, arguments: list[str], named: str, request: pytest.FixtureRequest
) -> None:
    data = work / "two-columns.jsonl"
    if not data.exists():
        both = [{"text": a, "other": a + "!", "source": "ab"[i % 2]} for i, a in enumerate(TEXTS)]
        data.write_text("".join(json.dumps(row) + "\n" for row in both))
    common = ["--data", str(data), "--checkpoint_minutes", "0"]
    if not (work / "first").exists():
        run("first", *common)
    with pytest.raises(SystemExit, match=f"resume: .* was made with {named}"):
        run("first", *common, "--resume", *arguments)


def test_content_counts_and_not_names(work: Path, run: Run) -> None:
    moved = work / "moved.jsonl"
    shutil.copy(work / "texts.jsonl", moved)
    run("content", "--checkpoint_minutes", "0")
    run("content", "--checkpoint_minutes", "0", "--resume", "--data", str(moved))
    moved.write_text(moved.read_text().replace("water", "wine"))
    with pytest.raises(SystemExit, match="texts_sha256"):
        run("content", "--checkpoint_minutes", "0", "--resume", "--data", str(moved))


def test_a_finished_run_is_neither_replaced_nor_taken_for_another(work: Path, run: Run) -> None:
    """Without a checkpoint, as a run of less than 15 minutes has none."""
    before = weights(run("finished", "--max_tokens", "100"))
    with pytest.raises(SystemExit, match=r"--output_dir: .* holds a run already"):
        run("finished", "--max_tokens", "100")
    with pytest.raises(SystemExit, match=r"resume: .*log\.json was made with seed=0, now 1"):
        run("finished", "--max_tokens", "100", "--resume", "--seed", "1")
    after = weights(run("finished", "--max_tokens", "100", "--resume"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    (work / "finished" / "log.json").write_text("[]")
    with pytest.raises(SystemExit, match=r"resume: .*log\.json is not the log of a run: remove it"):
        run("finished", "--max_tokens", "100", "--resume")
    (work / "other" / "model").mkdir(parents=True)
    with pytest.raises(SystemExit, match=r"--output_dir: .* holds a run already"):
        run("other")  # a folder model/ of something else would be replaced


def test_paper_recipe_float16_and_tracker(run: Run) -> None:
    arguments = ["--recipe", "paper", "--save_dtype", "float16", "--report_to", "tensorboard"]
    folder = run("paper", *arguments, "--max_tokens", "100")
    assert list((folder / "leap").glob("events.out.tfevents*"))
    assert {tensor.dtype for tensor in weights(folder).values()} == {torch.float16}
    model = AutoModel.from_pretrained(folder / "model", trust_remote_code=True)
    assert model.dtype == torch.float32
    assert (model.config.landing_layer, model.config.min_exit_layer) == (None, None)


def test_the_papers_preset(work: Path, run: Run) -> None:
    options, objective = parse(
        "", ["--preset", "paper-l12", "--data", "owner/texts", "--output_dir", "x", "--epochs", "1"]
    )
    assert len(parse_layer_starts(options.student_layers)) == 12
    assert (options.min_exit_layer, options.exit_threshold) == (6, 0.95)
    assert (options.batch_size, options.epochs, options.learning_rate) == (64, 1, 5e-5)
    assert objective == PAPER.objective
    halves = ",".join(f"{layer}a,{layer}f" for layer in range(1, 5))
    arguments = ["--preset", "paper-l12", "--student_layers", halves, "--max_tokens", "100", "--beta", "0"]
    folder = run("preset", *arguments)
    config = json.loads((folder / "model" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["min_exit_layer"], config["exit_threshold"]) == (8, 6, 0.95)


def test_a_loss_that_is_not_finite_ends_the_run(
    work: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("finite", "--checkpoint_minutes", "0")
    kept = sorted(path.name for path in (work / "finite" / "checkpoints").iterdir())
    shutil.copytree(work / "finite" / "checkpoints", work / "nan" / "checkpoints")
    original = train_leap.teacher_targets

    def broken(*arguments: object) -> object:
        targets = original(*arguments)
        targets.layers.fill_(float("nan"))
        return targets

    monkeypatch.setattr(train_leap, "teacher_targets", broken)
    for log_steps in ("1", "99"):  # found by the report, or before the checkpoint
        with pytest.raises(
            SystemExit, match=r"the loss is not finite .*: the last checkpoint is kept"
        ) as error:
            run("nan", "--checkpoint_minutes", "0", "--resume", "--log_steps", log_steps)
        assert "\n" not in str(error.value)
        assert sorted(path.name for path in (work / "nan" / "checkpoints").iterdir()) == kept


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--batch_size", "0"], "--batch_size"),
        (["--batch_size", "1", "--delta", "0.3"], "--batch_size"),
        (["--student_layers", "1,x"], "student_layers"),
        (["--student_layers", "1,2,9"], "student_layers"),
        (["--student_layers", "1,2"], "--student_layers: 2 are too few for a leap"),
        (["--landing_layer", "5"], "landing_layer"),
        (["--max_exit_layer", "3"], "max_exit_layer"),
        (["--recipe", "paper", "--first_exit_layer", "4"], "--first_exit_layer"),
        (["--recipe", "paper", "--first_exit_layer", "0"], "--first_exit_layer"),
        (["--data", "./nowhere/*.csv"], "data"),
        (["--temperature", "0"], "--temperature"),
        (["--warmup", "1"], "--warmup"),
        (["--exit_threshold", "2"], "exit_threshold"),
        (["--eval_data", "nowhere.csv"], "nowhere.csv"),
        (["--teacher", "./nowhere"], "--teacher"),
        (["--teacher", "owner/absent"], "--teacher: cannot load 'owner/absent'"),
        (["--student", "owner/absent"], "--student: cannot load 'owner/absent'"),
        (["--student", "{work}/wide"], "--student: its hidden_size is 48, the teacher's 32"),
        (["--data", "owner/absent"], "data: cannot read 'owner/absent'"),
        (["--recipe", "best"], "--recipe"),
        (["--output_dir", "{work}/texts.jsonl/in-a-file"], "--output_dir: cannot write"),
        (["--cache_dir", "{work}/texts.jsonl"], "--cache_dir: cannot write"),
        (["--report_to", "wandb"], "--report_to: wandb is not installed"),
        (["--no_such_option", "1"], "--no_such_option"),
    ],
)
def test_wrong_arguments_end_in_one_line(work: Path, run: Run, arguments: list[str], named: str) -> None:
    with pytest.raises(SystemExit) as error:
        run("wrong", *(argument.format(work=work) for argument in arguments))
    assert named in str(error.value)
    assert "\n" not in str(error.value)
    assert not (work / "wrong" / "model").exists()
