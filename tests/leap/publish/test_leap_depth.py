"""The leap path as a plain BERT, beside the model whose texts all leap."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_data
import torch
from numpy.testing import assert_allclose
from transformers import AutoModel, AutoTokenizer, BertModel

from leap.distill.release import write_model
from leap.encode.encoder import encode, load_encoder
from leap.errors import UsageError
from leap.publish.__main__ import main
from leap.publish.leap_depth import write_leap_depth
from modeling_leap import LeapModel

TEXTS = [text for pair in tiny_data.PAIRS for text in pair[:2]]
FILES = {
    "1_Pooling/config.json", "LICENSE", "README.md", "SHA256SUMS", "config.json", "model.safetensors",
    "modules.json", "sentence_bert_config.json", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip
RULES = {
    (1, 5, 6): tiny_data.LEAP_RULE,
    (1, 2, 6): {"min_exit_layer": 2, "max_exit_layer": 2, "landing_layer": 6, "exit_patience": 2},
    (1, 3): {"num_hidden_layers": 3, "landing_layer": 3, "min_exit_layer": 1},
}


@pytest.fixture
def make_checkpoint(tmp_path: Path, make_tiny_model: Callable[..., LeapModel]) -> Callable[..., Path]:
    def make(**fields: object) -> Path:
        folder = tmp_path / "leap"
        write_model(folder, make_tiny_model(**fields), tiny_data.tiny_tokenizer(), max_length=16)
        (folder / "LICENSE").write_text("all of it")
        return folder

    return make


def pooled(folder: Path) -> torch.Tensor:
    """Mean-pooled vectors by transformers alone, without trust."""
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    assert type(model) is BertModel
    batch = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    weights = batch["attention_mask"][:, :, None].float()
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


@pytest.mark.parametrize("path", RULES, ids=str)
def test_it_is_the_model_whose_texts_all_leap(
    make_checkpoint: Callable[..., Path], tmp_path: Path, path: tuple[int, ...]
) -> None:
    root, folder = make_checkpoint(**RULES[path]), tmp_path / "short"
    folder.mkdir()
    released = write_leap_depth(root, folder, "owner/LEAP-short")
    assert {file.path for file in released} == FILES
    found = pooled(folder)
    expected = encode(load_encoder(str(root), device="cpu"), TEXTS, exit_threshold=-1.0).embeddings
    assert_allclose(found, expected, atol=1e-5)

    config = json.loads((folder / "config.json").read_text())
    assert config["num_hidden_layers"] == len(path)
    assert not {"auto_map", "landing_layer", "exit_threshold"} & set(config)
    card = (folder / "README.md").read_text()
    assert f"its layers {', '.join(map(str, path))} of" in " ".join(card.split())
    assert 'SentenceTransformer("owner/LEAP-short")' in card


def test_sentence_transformers_loads_it(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    root, folder = make_checkpoint(**tiny_data.LEAP_RULE), tmp_path / "short"
    folder.mkdir()
    write_leap_depth(root, folder, "owner/LEAP-short")
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    found = torch.nn.functional.normalize(pooled(folder), dim=1)
    assert_allclose(model.encode(TEXTS), found, atol=1e-5)


@pytest.mark.parametrize(
    ("rule", "message"),
    [({}, "after layers 3, 4, 5"), ({"landing_layer": 5, "min_exit_layer": 1}, "after layers 1, 2, 3")],
)
def test_a_model_without_one_leap_is_refused(
    make_checkpoint: Callable[..., Path], tmp_path: Path, rule: dict[str, int], message: str
) -> None:
    root = make_checkpoint(**rule)
    with pytest.raises(UsageError, match=message):
        write_leap_depth(root, tmp_path, "owner/name")
    (root / "LICENSE").unlink()
    with pytest.raises(UsageError, match="LICENSE is missing"):
        write_leap_depth(root, tmp_path, "owner/name")


def test_the_option(
    make_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, output = make_checkpoint(**tiny_data.LEAP_RULE), tmp_path / "built"
    command = ["--depth", "leap", "--repository", "owner/short", "--folder", str(root), "--dry_run"]
    assert main([*command, "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "10 files" in printed and "nothing was sent to owner/short" in printed
    assert {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()} == FILES
