"""A tree that can be released, for the tests of publishing."""

import shutil
from pathlib import Path

import pytest
import tiny_data
import tiny_results
import torch
from release_graph import save_graph

from eval.__main__ import main as evaluate
from leap.distill.release import write_model
from leap.encode.encoder import load_encoder
from modeling_leap import LeapModel


@pytest.fixture(scope="session")
def whole_tree(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> Path:
    """A tree that can be released: a random model, results that say they are of it, and their card."""
    tree = tmp_path_factory.mktemp("release") / "tree"
    torch.manual_seed(1)
    sizes = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 40}
    depth = {"num_hidden_layers": 4, "num_attention_heads": 4, "initializer_range": 0.12}
    model = LeapModel(LeapModel.config_class(**sizes, **depth, **tiny_results.RULE)).eval()
    write_model(tree, model, tiny_data.tiny_tokenizer(), max_length=40)
    config = (tree / "config.json").read_bytes()
    results = tiny_results.write_required(tree)  # which writes a config.json too
    tiny_results.write_optional(results)
    (tree / "config.json").write_bytes(config)
    (results / "peers-cpu.png").write_bytes(b"a picture")
    fingerprint = load_encoder(str(tree)).fingerprint()
    for path in results.glob("*.json"):
        path.write_text(path.read_text().replace('"sha256": "w"', f'"sha256": "{fingerprint}"'))
    assert evaluate(["card", "--folder", str(tree)]) == 0
    shutil.copy(repo_root / "LICENSE", tree)
    save_graph(tree)
    (tree / "onnx" / "ort_config.json").write_text("{}")
    (tree / "onnx" / ".half-written.tmp").touch()
    (tree / ".gitignore").touch()  # no part of a release, as everything that is not named there
    return tree


@pytest.fixture
def tree(whole_tree: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole_tree, tmp_path / "tree"))
