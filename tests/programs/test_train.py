"""train_leap.py as users start it: tiny models, a real tokenizer."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

import train_leap
from eval.stress.lives import forkserver, run_program
from leap.distill.options import parse
from leap.distill.recipes import PAPER
from leap.distill.students import parse_layer_starts
from modeling_leap import LeapModel

Run = Callable[..., Path]
TEXTS = [f"text number {i} is about " + " ".join(["water", "stone", "music"][: i % 4]) for i in range(48)]
# Few texts a step: several steps an epoch. No copy of the teacher: what has no gradient but rounding, Adam
# moves by a step either way.
STEPS = ["--batch_size", "8", "--batch_tokens", "9999", "--student_layers", "2,1,3,4", "--log_steps", "1"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, teacher_path: Path) -> Path:
    """A folder with a tiny teacher, a wider one, texts and pairs."""
    folder = tmp_path_factory.mktemp("train")
    tokenizer = AutoTokenizer.from_pretrained(teacher_path)
    for name, width in (("teacher", 32), ("wide", 48)):
        torch.manual_seed(0)
        config = LeapModel.config_class(
            vocab_size=len(tokenizer),
            hidden_size=width,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=256,
            initializer_range=0.3,  # at the usual 0.02 all embeddings are alike and gradients are rounding
        )
        LeapModel(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    rows = [f"{a},{b},{score}" for a, b, score in zip(TEXTS[:4], TEXTS[4:8], [1, 2, 3, 4], strict=True)]
    (folder / "sts.csv").write_text("\n".join(["sentence1,sentence2,score", *rows]) + "\n")
    return folder


def command(work: Path, output: str, *arguments: str) -> list[str]:
    fixed = ["train_leap.py", "--teacher", str(work / "teacher"), "--data", str(work / "texts.jsonl")]
    fixed += ["--cache_dir", str(work / "cache"), "--output_dir", str(work / output)]
    return [*fixed, *STEPS, *arguments]


@pytest.fixture
def run(work: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that trains in this process and gives the folder."""

    def train(output: str, *arguments: str) -> Path:
        monkeypatch.setattr(sys, "argv", command(work, output, *arguments))
        train_leap.main()
        return work / output

    return train


def launched(work: Path, repo_root: Path, output: str, *arguments: str, processes: int = 1) -> Path:
    """Train in processes of its own."""
    # On CPUs accelerate launch starts several processes only through MPI, and just one where it has none.
    starter = ["accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    if processes > 1:
        starter = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *starter, *command(work, output, *arguments)],
        cwd=repo_root,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return work / output


def train_as(rank: int, port: int, arguments: list[str], log: str) -> None:
    """One of two processes, as `torchrun` starts it."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank)}
    os.environ.update(address, LOCAL_RANK=str(rank))
    run_program("train_leap", arguments, log)


def forked(work: Path, output: str, *arguments: str) -> Path:
    """Train in two processes, forked from one that has loaded the libraries."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    _, *given = command(work, output, *arguments)
    logs = [work / f"{output}-{rank}.log" for rank in range(2)]
    processes = [
        forkserver().Process(target=train_as, args=(rank, port, given, str(log)))
        for rank, log in enumerate(logs)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
    assert [process.exitcode for process in processes] == [0, 0], [log.read_text() for log in logs]
    return work / output


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def rows(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / "log.json").read_text())["log"]


def without_speed(log: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if "per_second" not in key} for row in log]


def assert_same_training(first: Path, second: Path) -> None:
    """The same batches, and weights that differ by rounding."""
    tensors = weights(second)
    for name, tensor in weights(first).items():
        if name.endswith("key.bias"):
            continue  # softmax does not see it, so rounding is all its gradient
        torch.testing.assert_close(
            tensors[name], tensor, atol=2e-5, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )
    tokens = [[row["tokens"] for row in rows(folder) if "tokens" in row] for folder in (first, second)]
    assert tokens[0] == tokens[1]


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


@pytest.fixture(scope="module")
def halves(work: Path) -> list[str]:
    """Evaluated at steps that are no multiple of --log_steps, which once made two processes wait for ever."""
    arguments = ["--eval_data", str(work / "sts.csv"), "--eval_steps", "3", "--log_steps", "2"]
    arguments += ["--full_depth_every", "1", "--gradient_accumulation_steps", "2"]
    arguments += ["--recipe", "paper"]  # L_contrast gathers over processes
    return [*arguments, "--batch_size", "4", "--checkpoint_minutes", "0"]


@pytest.fixture(scope="module")
def two(work: Path, halves: list[str]) -> Path:
    """A run of two processes."""
    return forked(work, "two", *halves)


def test_two_processes_do_what_one_does(run: Run, halves: list[str], two: Path) -> None:
    assert_same_training(run("one", *halves, "--batch_size", "8"), two)


@pytest.mark.slow
def test_two_processes_resume(work: Path, halves: list[str], two: Path) -> None:
    """From a checkpoint at a step that is no multiple of what is logged or evaluated every so many steps."""
    newest = max((two / "checkpoints").iterdir())
    before = min((two / "checkpoints").iterdir())
    assert int(before.name[-1]) == int(newest.name[-1]) - 1
    shutil.copytree(before, work / "two-resumed" / "checkpoints" / before.name)
    resumed = forked(work, "two-resumed", *halves, "--resume")
    first, second = weights(two), weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    # What was summed for a report before the kill is not in the checkpoint: of that one row the means differ.
    assert [row["step"] for row in rows(two)] == [row["step"] for row in rows(resumed)]


@pytest.mark.slow
def test_torchrun_does_what_forked_processes_do(
    work: Path, repo_root: Path, halves: list[str], two: Path
) -> None:
    started = launched(work, repo_root, "torchrun", *halves, processes=2)
    assert_same_training(started, two)


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
