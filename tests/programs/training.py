"""A training run as tests start it: its command line, and what it leaves behind."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

Run = Callable[..., Path]
TEXTS = [f"text number {i} is about " + " ".join(["water", "stone", "music"][: i % 4]) for i in range(48)]
# Few texts a step: several steps an epoch. No copy of the teacher: what has no gradient but rounding, Adam
# moves by a step either way.
STEPS = ["--batch_size", "8", "--batch_tokens", "9999", "--student_layers", "2,1,3,4", "--log_steps", "1"]


def command(work: Path, output: str, *arguments: str) -> list[str]:
    fixed = ["train_leap.py", "--teacher", str(work / "teacher"), "--data", str(work / "texts.jsonl")]
    fixed += ["--cache_dir", str(work / "cache"), "--output_dir", str(work / output)]
    return [*fixed, *STEPS, *arguments]


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


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def rows(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / "log.json").read_text())["log"]
