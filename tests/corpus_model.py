"""A tiny model for the tests of encode_corpus.py."""

from pathlib import Path

import torch
from transformers import AutoTokenizer

from modeling_leap import LeapModel


def make_model(folder: Path, repo_root: Path, **fields: object) -> Path:
    """A tiny model whose texts converge at several layers."""
    torch.manual_seed(0)
    config = LeapModel.config_class(
        **{
            "vocab_size": 30522,
            "hidden_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "max_position_embeddings": 64,
            "initializer_range": 0.1,
            "exit_threshold": 0.93,
            "min_exit_layer": 2,
            **fields,
        }
    )
    LeapModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(repo_root).save_pretrained(folder)
    return folder
