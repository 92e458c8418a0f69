"""The two programs that `eval.stress.survival` kills, on a tiny random model and texts of random words."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from eval.stress.lives import Life, live
from leap.corpus import read_vectors
from leap.corpus.parts import done_parts
from leap.errors import UsageError
from modeling_leap import LeapModel

ROOT = Path(__file__).resolve().parents[2]
WORDS = "water stone music night river glass paper winter garden engine letter market silver window".split()
TOKENS_A_STEP = 64


@dataclass
class Program:
    """A program that writes to a folder, and a digest of what it wrote.

    Attributes:
        name: of its module.
        arguments: of a run into a folder.
        total: what its progress bar counts to, or a pattern of it.
        half_written: the files or folders in that folder that are being written, or were at a kill.
        kept: where a run that was stopped goes on, as its progress bar counts.
        digest: sha256 of what a finished run has left there.
    """

    name: str
    arguments: Callable[[Path], list[str]]
    total: int | str
    half_written: Callable[[Path], set[Path]]
    kept: Callable[[Path], int]
    digest: Callable[[Path], str]

    def live(self, folder: Path, kill_after: float | None = None, while_writing: bool = False) -> Life:
        """One run, which resumes from the folder."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        return live(
            self.name,
            [*self.arguments(folder), "--resume"],
            folder.parent / f"{folder.name}.log",
            self.total,
            lambda: self.half_written(folder),
            kill_after,
            while_writing,
        )

    def finish(self, folder: Path) -> Life:
        """A run that has to complete.

        Raises:
            UsageError: it does not.
        """
        life = self.live(folder)
        if life.exit_code != 0:
            raise UsageError(f"{self.name}.py ended with status {life.exit_code}: {life.error}")
        return life


def training(work: Path, steps: int) -> Program:
    """train_leap.py on the tiny model of `make_inputs`."""

    def digest(folder: Path) -> str:
        return hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()

    def arguments(folder: Path) -> list[str]:
        said = ["--teacher", work / "model", "--data", work / "texts.jsonl", "--cache_dir", work / "cache"]
        said += ["--max_tokens", steps * TOKENS_A_STEP, "--batch_tokens", TOKENS_A_STEP]
        said += ["--checkpoint_minutes", "0", "--output_dir", folder]  # after every step
        return [str(argument) for argument in said]

    return Program(
        "train_leap",
        arguments,
        steps * TOKENS_A_STEP,
        lambda folder: set((folder / "checkpoints").glob(".step-*.partial")),
        lambda folder: tokens_seen(max((folder / "checkpoints").glob("step-*"))),
        digest,
    )


def tokens_seen(checkpoint: Path) -> int:
    """How many tokens training had seen when it wrote a checkpoint."""
    return json.loads((checkpoint / "state.json").read_text())["tokens"]


def encoding(work: Path, rows: int) -> Program:
    """encode_corpus.py on the tiny model and the texts of `make_inputs`."""

    def digest(folder: Path) -> str:
        vectors = read_vectors(folder)
        if not np.array_equal(vectors.ids, np.arange(rows)):
            raise UsageError(f"{folder}: rows are lost or doubled")
        content = [np.ascontiguousarray(array).tobytes() for array in vectors]
        return hashlib.sha256(b"".join(content)).hexdigest()

    def arguments(folder: Path) -> list[str]:
        said = ["--model", work / "model", "--input", work / "texts.jsonl", "--output", folder]
        said += ["--part_size", 40, "--batch_size", 8]
        return [str(argument) for argument in said]

    total = r"\d+(?= \[[^]]*texts/s)"  # an estimate, which comes closer as the input is read
    return Program(
        "encode_corpus",
        arguments,
        total,
        lambda folder: set(folder.glob(".part-*.tmp")),
        lambda folder: sum(done_parts(folder).values()),
        digest,
    )


def make_inputs(work: Path, rows: int) -> None:
    """A tiny random model and `rows` texts of random words, in `work`."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT)
    torch.manual_seed(0)
    config = LeapModel.config_class(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.1,
        exit_threshold=0.93,
        min_exit_layer=2,
    )
    LeapModel(config).save_pretrained(work / "model")
    tokenizer.save_pretrained(work / "model")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(1, 12))) for _ in range(rows)]
    (work / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
