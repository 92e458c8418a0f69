"""Tiny models with a real tokenizer to train, and a function that trains in this process."""

import json
import sys
from pathlib import Path

import pytest
import torch
from training import TEXTS, Run, command
from transformers import AutoTokenizer

import train_leap
from modeling_leap import LeapModel


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


@pytest.fixture
def run(work: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that trains in this process and gives the folder."""

    def train(output: str, *arguments: str) -> Path:
        monkeypatch.setattr(sys, "argv", command(work, output, *arguments))
        train_leap.main()
        return work / output

    return train
