"""A text longer than the model takes gives one vector, whichever program reads the checkpoint."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_data
import torch
from slow_model import MakeModel
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer

from leap.distill.release import set_max_length, write_model
from leap.encode.encoder import encode, load_encoder
from leap.encode.exits import unit_vectors
from leap.runtime.encoder import LeapEncoder
from leap.runtime.export import export

LENGTH = 24
LONG = " ".join(tiny_data.WORDS[n * 7 % 20] for n in range(400))


def lengths(folder: Path) -> dict[str, int]:
    """Every length that a file of the folder states, by file and key."""
    found = {"truncation": Tokenizer.from_file(str(folder / "tokenizer.json")).truncation["max_length"]}
    for name in ("tokenizer_config.json", "sentence_bert_config.json"):
        content = json.loads((folder / name).read_text())
        found |= {f"{name}:{key}": value for key, value in content.items() if "max" in key and value}
    return found


@pytest.fixture
def tiny(tmp_path: Path, make_tiny_model: MakeModel) -> Path:
    """A release whose tokenizer comes from elsewhere: other lengths in its files, a call's state in it."""
    tokenizer = tiny_data.tiny_tokenizer()
    tokenizer.model_max_length = 512
    tokenizer([LONG], truncation=True, max_length=7)
    tokenizer.init_kwargs |= {"max_length": 9, "local_files_only": True}
    rule = {"exit_threshold": 0.5, "landing_layer": 5, "min_exit_layer": 1, "max_exit_layer": 1}
    write_model(tmp_path / "tiny", make_tiny_model(**rule), tokenizer, LENGTH)
    return tmp_path / "tiny"


def by_transformers(folder: Path, text: str, trust: bool) -> np.ndarray:
    tokens = AutoTokenizer.from_pretrained(folder)(
        [text, "a cat"], padding=True, truncation=True, return_tensors="pt"
    )
    model = AutoModel.from_pretrained(folder, trust_remote_code=trust, use_safetensors=True).eval()
    with torch.inference_mode():
        states = model(**tokens, **({"exit_threshold": None} if trust else {})).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    return ((states * mask).sum(dim=1) / mask.sum(dim=1))[0].numpy()


def by_tokenizers(folder: Path, text: str) -> np.ndarray:
    """As fastembed and transformers.js do it: the tokenizer as its file has it, plain BERT, a mean."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = AutoModel.from_pretrained(folder, trust_remote_code=False, use_safetensors=True).eval()
    with torch.inference_mode():
        return model(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0].mean(dim=0).numpy()


def by_runtime(folder: Path, text: str) -> np.ndarray:
    export(folder, folder / "onnx")
    return np.asarray(LeapEncoder.from_pretrained(str(folder)).encode([text], exit_threshold=None))[0]


def by_sentence_transformers(folder: Path, text: str) -> np.ndarray:
    package = pytest.importorskip("sentence_transformers")
    encoder = package.SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    assert encoder.max_seq_length == LENGTH
    return encoder.encode([text], exit_threshold=None)[0]


WAYS = {
    "transformers": lambda folder, text: by_transformers(folder, text, trust=True),
    "transformers without trust": lambda folder, text: by_transformers(folder, text, trust=False),
    "tokenizers": by_tokenizers,
    "sentence-transformers": by_sentence_transformers,
    "leap.encode": lambda folder, text: encode(
        load_encoder(str(folder)), [text, "a cat"], exit_threshold=None
    ).embeddings[0],
    "leap.runtime": by_runtime,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_long_text_gives_one_vector(tiny: Path, make_tiny_model: MakeModel, way: str) -> None:
    ids = tiny_data.tiny_tokenizer()(LONG, truncation=True, max_length=LENGTH, return_tensors="pt")[
        "input_ids"
    ]
    assert ids.shape == (1, LENGTH)
    with torch.no_grad():
        expected = make_tiny_model()(ids).sentence_embedding.numpy()
    found = unit_vectors(WAYS[way](tiny, LONG)[None])
    np.testing.assert_allclose(found, unit_vectors(expected), atol=1e-5)


def test_every_file_says_the_same(tiny: Path) -> None:
    assert set(lengths(tiny).values()) == {LENGTH}
    assert len(lengths(tiny)) == 3
    assert "local_files_only" not in (tiny / "tokenizer_config.json").read_text()


def test_fine_tuned_and_saved_by_its_user(tiny: Path, tmp_path: Path) -> None:
    """sentence-transformers writes the folder: its own file for the length may go, none may disagree."""
    package = pytest.importorskip("sentence_transformers")
    encoder = package.SentenceTransformer(str(tiny), trust_remote_code=True, device="cpu")
    encoder.encode([LONG])
    encoder.save_pretrained(str(tmp_path / "saved"))
    assert set(lengths(tmp_path / "saved").values()) == {LENGTH}
    np.testing.assert_allclose(
        by_transformers(tmp_path / "saved", LONG, True), by_transformers(tiny, LONG, True), atol=1e-5
    )


def test_a_tokenizer_that_cuts_nothing_and_one_without_json(tmp_path: Path) -> None:
    tiny_data.tiny_tokenizer().save_pretrained(tmp_path)
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).truncation is None
    set_max_length(tmp_path, 11)
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(LONG).ids[-1] == 3  # [SEP] is kept
    assert len(Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(LONG).ids) == 11
    (tmp_path / "tokenizer.json").unlink()
    set_max_length(tmp_path, 12)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["model_max_length"] == 12


@pytest.mark.real_weights
def test_the_repository_itself(repo_root: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json", "config.json"):
        shutil.copy(repo_root / name, tmp_path)
    assert set(lengths(tmp_path).values()) == {256}
    text = "a text of many words " * 100
    ids = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text).ids
    assert len(ids) == 256
    assert AutoTokenizer.from_pretrained(tmp_path)(text, truncation=True)["input_ids"] == ids


def test_the_readme_cuts_texts(repo_root: Path) -> None:
    """A tokenizer of transformers cuts nothing unless it is told to, whatever length its files state."""
    calls = re.findall(r"tokenizer\(.*padding=True.*", (repo_root / "README.md").read_text())
    assert calls
    assert all("truncation=True" in call for call in calls)
