"""Classes with a head: plain BERT of full depth below it, with trust and without."""

from pathlib import Path

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from configuration_leap import HEADS, LeapConfig
from modeling_leap import LeapModel

IDS = torch.arange(1, 9)[None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model all of whose texts leap by its config."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    config = LeapConfig(**sizes, num_hidden_layers=5, exit_threshold=-1.0, landing_layer=4, min_exit_layer=1)
    folder = tmp_path_factory.mktemp("heads")
    LeapModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("head", HEADS)
def test_a_head_sits_on_full_depth(head: str, folder: Path, tmp_path: Path) -> None:
    auto = getattr(transformers, f"AutoModelFor{head}")

    def load(path: Path, trust: bool) -> PreTrainedModel:
        torch.manual_seed(1)  # of a new head's weights
        return auto.from_pretrained(path, trust_remote_code=trust).eval()

    def outputs(model: PreTrainedModel) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            return model(IDS[:, None] if head == "MultipleChoice" else IDS).to_tuple()

    model = load(folder, trust=True)
    assert (type(model).__name__, type(model.config).__name__) == (f"LeapFor{head}", "LeapConfig")
    expected = outputs(load(folder, trust=False))
    torch.testing.assert_close(outputs(model), expected)
    with torch.no_grad():
        model.base_model.embeddings.LayerNorm.bias.add_(1.0)  # as training would change it
    model.save_pretrained(tmp_path)
    for trust in (True, False):
        torch.testing.assert_close(outputs(load(tmp_path, trust)), outputs(model))
    bare = LeapModel.from_pretrained(tmp_path).eval()
    assert bare.config.exit_thresholds() == {1: -1.0, 2: -1.0}, "the exit rule stays in the config"
