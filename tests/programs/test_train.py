"""train_leap.py as it is started by users: accelerate launch, tiny models, real tokenizer."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from leap.distill.arguments import objective_config, parse
from leap.distill.recipes import PAPER
from leap.distill.students import parse_layer_starts
from modeling_leap import LeapModel

Launch = Callable[..., subprocess.CompletedProcess[str]]
TEXTS = [f"text number {i} is about " + " ".join(["water", "stone", "music"][: i % 4]) for i in range(48)]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, teacher_path: Path) -> Path:
    """A folder with a tiny teacher, a wider one, and texts."""
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
            max_position_embeddings=64,
            initializer_range=0.3,  # at the usual 0.02 all embeddings are alike and gradients are rounding
        )
        LeapModel(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    rows = [f"{a},{b},{score}" for a, b, score in zip(TEXTS[:4], TEXTS[4:8], [1, 2, 3, 4], strict=True)]
    (folder / "sts.csv").write_text("\n".join(["sentence1,sentence2,score", *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def launch(work: Path, repo_root: Path) -> Launch:
    def run(output: str, *arguments: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
        # On CPUs accelerate launch starts several processes only through MPI, and just one where it has none.
        starter = ["accelerate.commands.launch", "--cpu", "--num_processes", "1"]
        if processes > 1:
            starter = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command = [sys.executable, "-m", *starter, "train_leap.py", "--teacher", str(work / "teacher")]
        command += ["--data", str(work / "texts.jsonl"), "--cache_dir", str(work / "cache")]
        command += ["--batch_size", "8"]
        command += ["--output_dir", str(work / output), *arguments]
        environment = os.environ | {
            "ACCELERATE_USE_CPU": "true",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "TQDM_DISABLE": "1",
        }
        return subprocess.run(
            command, cwd=repo_root, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def test_a_run_and_its_resumption_end_alike(work: Path, launch: Launch) -> None:
    arguments = ["--student_layers", "1,4,4~", "--checkpoint_steps", "4", "--log_steps", "1", "--epochs", "2"]
    arguments += ["--eval_data", str(work / "sts.csv"), "--eval_steps", "6", "--exit_threshold", "0.9"]
    arguments += ["--relation", "10"]
    done = launch("whole", *arguments)
    assert done.returncode == 0, done.stderr
    rows = json.loads((work / "whole" / "log.json").read_text())["log"]
    assert rows[0]["loss"] > rows[-2]["loss"]
    assert {"final", "exit_teacher", "exit_own", "relation", "texts_per_second"} < set(rows[0])
    assert "sts/layer_3" in rows[-1]

    model = AutoModel.from_pretrained(work / "whole" / "model", trust_remote_code=True)
    assert type(model).__name__ == "LeapModel"
    assert (model.config.exit_threshold, model.config.num_hidden_layers) == (0.9, 3)

    again = launch("whole", *arguments)
    assert again.returncode != 0
    assert "--output_dir" in again.stderr

    # As if killed after step 8, the newest checkpoint half written over with something else.
    shutil.copytree(work / "whole" / "checkpoints", work / "resumed" / "checkpoints")
    (work / "resumed" / "checkpoints" / "step-00000008" / "model.safetensors").write_bytes(b"torn")
    resumed = launch("resumed", *arguments, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "going back to the one before" in resumed.stderr
    whole, other = weights(work / "whole"), weights(work / "resumed")
    assert all(torch.equal(whole[name], other[name]) for name in whole)

    changed = launch("resumed", *arguments, "--resume", "--learning_rate", "0.1")
    assert "learning_rate" in changed.stderr.splitlines()[-1] or "learning_rate" in changed.stderr


def test_two_processes_do_what_one_does(work: Path, launch: Launch) -> None:
    # Without the mixed-depth term, which draws layers for each process, the two runs see the same numbers;
    # L_contrast gathers over them. The start is no copy of the teacher: what has no gradient but rounding,
    # Adam moves by a step either way.
    arguments = ["--delta", "0.3", "--gradient_accumulation_steps", "2", "--student_layers", "2,1,3"]
    one = launch("one", *arguments)
    assert one.returncode == 0, one.stderr
    two = launch("two", *arguments, "--batch_size", "4", processes=2)
    assert two.returncode == 0, two.stderr
    first, second = weights(work / "one"), weights(work / "two")
    for name, tensor in first.items():
        if name.endswith("key.bias"):
            continue  # softmax does not see it, so rounding is all its gradient
        torch.testing.assert_close(
            second[name], tensor, atol=2e-5, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_paper_recipe_other_width_and_float16(work: Path, launch: Launch) -> None:
    arguments = ["--recipe", "paper", "--student", str(work / "wide"), "--save_dtype", "float16"]
    arguments += ["--report_to", "tensorboard", "--log_steps", "1"]
    done = launch("wide-run", *arguments, "--train_word_embeddings", "--max_steps", "2")
    assert done.returncode == 0, done.stderr
    assert list((work / "wide-run" / "leap").glob("events.out.tfevents*"))
    assert {tensor.dtype for tensor in weights(work / "wide-run").values()} == {torch.float16}
    model = AutoModel.from_pretrained(work / "wide-run" / "model", trust_remote_code=True)
    assert model.dtype == torch.float32
    assert model.config.hidden_size == 48


def test_the_papers_preset_with_models_of_other_widths(work: Path, launch: Launch) -> None:
    """As with the paper's own models: a student of its own width and depth, all its layers in order."""
    arguments = ["--preset", "paper-l12", "--student", str(work / "wide"), "--min_exit_layer", "2"]
    done = launch("preset", *arguments, "--max_steps", "2", "--beta", "0")
    assert done.returncode == 0, done.stderr
    run = json.loads((work / "preset" / "log.json").read_text())["run"]
    assert (run["recipe"], run["learning_rate"], run["student_layers"]) == ("paper", 5e-5, None)
    assert run["batch_size"] == 8  # said on the command line
    assert (run["objective"]["alpha"], run["objective"]["beta"]) == (0.3, 0)
    config = json.loads((work / "preset" / "model" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["hidden_size"], config["exit_threshold"]) == (4, 48, 0.95)


def test_the_papers_preset_splits_the_teachers_layers() -> None:
    args = parse("", ["--preset", "paper-l12", "--data", "owner/texts", "--output_dir", "x", "--epochs", "1"])
    assert len(parse_layer_starts(args.student_layers)) == 12
    assert (args.min_exit_layer, args.exit_threshold, args.batch_size, args.epochs) == (6, 0.95, 64, 1)
    assert objective_config(args) == PAPER


def test_stored_teacher_gives_the_same_run(work: Path, launch: Launch) -> None:
    # No copy of the teacher, for the reason above.
    arguments = ["--max_steps", "3", "--max_texts", "40", "--student_layers", "2,1,3"]
    for name, stored in (("fresh", []), ("stored", ["--cache_teacher"])):
        done = launch(name, *arguments, *stored)
        assert done.returncode == 0, done.stderr
    fresh, stored = weights(work / "fresh"), weights(work / "stored")
    for name, tensor in fresh.items():
        torch.testing.assert_close(stored[name], tensor, atol=1e-3, rtol=1e-2)  # targets kept in float16


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--batch_size", "0"], "--batch_size"),
        (["--batch_size", "1", "--delta", "0.3"], "--batch_size"),
        (["--student_layers", "1,x"], "student_layers"),
        (["--student_layers", "1,2,9"], "student_layers"),
        (["--recipe", "paper", "--cache_teacher"], "--cache_teacher"),
        (["--data", "./nowhere/*.csv"], "data"),
        (["--temperature", "0"], "--temperature"),
        (["--exit_threshold", "2"], "exit_threshold"),
        (["--eval_data", "nowhere.csv"], "nowhere.csv"),
        (["--teacher", "./nowhere"], "--teacher"),
        (["--teacher", "owner/absent"], "--teacher: cannot load 'owner/absent'"),
        (["--student", "owner/absent"], "--student: cannot load 'owner/absent'"),
        (["--data", "owner/absent"], "data: cannot read 'owner/absent'"),
        (["--frozen_layers", "4"], "frozen_layers"),
    ],
)
def test_wrong_arguments_end_in_one_line(
    work: Path,
    arguments: list[str],
    named: str,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import train_leap

    command = ["train_leap.py", "--teacher", str(work / "teacher"), "--data", str(work / "texts.jsonl")]
    command += ["--cache_dir", str(work / "cache"), "--output_dir", str(work / "wrong"), *arguments]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as error:
        train_leap.main()
    assert named in str(error.value)
    assert "\n" not in str(error.value)
    assert not (work / "wrong" / "model").exists()
