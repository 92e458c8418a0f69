"""The folder that a finished model goes into, whole or not at all, and its way to the Hub."""

import json
from pathlib import Path

import torch
from huggingface_hub import HfApi
from transformers import PreTrainedTokenizerBase

from distill.files import write_folder
from modeling_leap import LeapModel

MODULES = [
    {
        "idx": 0,
        "name": "0",
        "path": "",
        "type": "sentence_transformers.models.Transformer",
        "kwargs": ["exit_threshold"],
    },
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]


def write_model(
    folder: Path,
    model: LeapModel,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    dtype: str = "float32",
) -> None:
    """Write weights (safetensors), code, tokenizer and what sentence-transformers reads.

    Args:
        folder: replaced as a whole.
        model: its config holds the exit rule.
        tokenizer: the teacher's.
        max_length: tokens to which sentence-transformers is to cut texts.
        dtype: of the stored weights. float16 halves the download; the config still says float32, in which
            a model is loaded where nothing else is asked for: a CPU is slow in half precision.
    """
    weights = {name: tensor.to(getattr(torch, dtype)) for name, tensor in model.state_dict().items()}
    with write_folder(folder) as partial:
        model.save_pretrained(partial, state_dict=weights)
        tokenizer.save_pretrained(partial)
        _write_json(partial / "modules.json", MODULES)
        _write_json(
            partial / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False}
        )
        pooling = {"word_embedding_dimension": model.config.hidden_size, "pooling_mode_mean_tokens": True}
        _write_json(partial / "1_Pooling" / "config.json", pooling)


def push(folder: Path, repository: str) -> str:
    """Upload the folder to a repository of the Hub in one commit, made where there is none; its address."""
    api = HfApi()
    api.create_repo(repository, exist_ok=True)
    return str(
        api.upload_folder(folder_path=folder, repo_id=repository, commit_message="LEAP model").commit_url
    )


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
