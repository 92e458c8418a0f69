"""Saving and loading: by this repository, the Hub's loader, plain transformers and sentence-transformers."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertConfig, BertModel

from configuration_leap import AUTO_MAP
from modeling_leap import LeapModel

MakeModel = Callable[..., LeapModel]
Batch = dict[str, Tensor]

# What another program on another day does: load by name, encode, save again, load that.
ELSEWHERE = """
import sys, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

folder, batch, copy, out = sys.argv[1:]
assert not any(name in sys.modules for name in ("modeling_leap", "configuration_leap"))
results = {}
for name in (folder, copy):
    model = AutoModel.from_pretrained(name, trust_remote_code=True).eval()
    assert type(model).__name__ == "LeapModel" and type(model.config).__name__ == "LeapConfig"
    with torch.no_grad():
        output = model(**load_file(batch), output_hidden_states=True)
    results[f"{len(results)}"] = output.sentence_embedding
    results[f"{len(results)}"] = output.exit_layer
    if name == folder:
        model.save_pretrained(copy)
save_file(results, out)
"""


def run_elsewhere(code: str, *arguments: object, folder: Path) -> None:
    """Run Python code in a fresh process outside the repository, which nothing on its path leads back to."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env["HF_MODULES_CACHE"] = str(folder / "modules")
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def full_depth(model: torch.nn.Module, batch: Batch) -> Tensor:
    """The last hidden state, without gradients."""
    with torch.no_grad():
        return model.eval()(**batch).last_hidden_state


@pytest.fixture
def exiting_model(make_tiny_model: MakeModel) -> LeapModel:
    """A random model whose rows leap from different layers by its config."""
    return make_tiny_model(exit_threshold=0.5, min_exit_layer=2, landing_layer=5, num_hidden_layers=5)


def test_saved_folder_is_complete(exiting_model: LeapModel, tmp_path: Path, repo_root: Path) -> None:
    exiting_model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["auto_map"] == AUTO_MAP
    assert config["architectures"] == ["LeapModel"]
    for name in ("configuration_leap.py", "modeling_leap.py"):
        assert (tmp_path / name).read_bytes() == (repo_root / name).read_bytes()


def test_saved_folder_loads_elsewhere_again_and_again(
    exiting_model: LeapModel, tiny_batch: Batch, tmp_path: Path
) -> None:
    exiting_model.save_pretrained(tmp_path / "saved")
    save_file(tiny_batch, tmp_path / "batch.safetensors")
    out = tmp_path / "out.safetensors"
    run_elsewhere(
        ELSEWHERE,
        tmp_path / "saved",
        tmp_path / "batch.safetensors",
        tmp_path / "again",
        out,
        folder=tmp_path,
    )
    with torch.no_grad():
        expected = exiting_model(**tiny_batch)
    assert len(expected.exit_layer.unique()) > 1
    results = load_file(out)
    for embedding, exit_layer in (("0", "1"), ("2", "3")):
        torch.testing.assert_close(results[embedding], expected.sentence_embedding)
        assert torch.equal(results[exit_layer], expected.exit_layer)
    assert {"configuration_leap.py", "modeling_leap.py"} <= {
        path.name for path in (tmp_path / "again").iterdir()
    }


def test_remote_and_local_classes_read_each_other(
    exiting_model: LeapModel, tiny_batch: Batch, tmp_path: Path
) -> None:
    exiting_model.save_pretrained(tmp_path / "0")
    expected = full_depth(exiting_model, tiny_batch)
    for step, load in enumerate(
        (AutoModel.from_pretrained, LeapModel.from_pretrained, AutoModel.from_pretrained)
    ):
        model = load(tmp_path / str(step), trust_remote_code=True)
        torch.testing.assert_close(full_depth(model, tiny_batch), expected)
        model.save_pretrained(tmp_path / str(step + 1))
    remote = AutoConfig.from_pretrained(tmp_path / "0", trust_remote_code=True)
    assert type(remote).__name__ == "LeapConfig"
    assert LeapModel(remote).config.resolve_exit_rule() == (0.5, 2, 1)


def test_without_trust_it_is_a_plain_bert_of_full_depth(
    exiting_model: LeapModel, tiny_batch: Batch, tmp_path: Path
) -> None:
    exiting_model.save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path, trust_remote_code=False)
    assert type(model) is BertModel
    with torch.no_grad():
        expected = exiting_model(**tiny_batch, exit_threshold=None).last_hidden_state
    torch.testing.assert_close(full_depth(model, tiny_batch), expected, atol=1e-5, rtol=0)


def test_exit_rule_can_be_given_when_loading(exiting_model: LeapModel, tmp_path: Path) -> None:
    exiting_model.save_pretrained(tmp_path)
    for load in (AutoModel.from_pretrained, LeapModel.from_pretrained):
        model = load(tmp_path, trust_remote_code=True, exit_threshold=0.75, min_exit_layer=3)
        assert model.config.resolve_exit_rule() == (0.75, 3, 1)
        with pytest.raises(ValueError, match=r"exit_threshold must be .*got 75"):
            load(tmp_path, trust_remote_code=True, exit_threshold=75)


def test_half_precision_checkpoint(exiting_model: LeapModel, tiny_batch: Batch, tmp_path: Path) -> None:
    expected = full_depth(exiting_model.half().float(), tiny_batch)
    exiting_model.half().save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path, trust_remote_code=True, dtype=torch.float32)
    assert model.dtype == torch.float32
    torch.testing.assert_close(full_depth(model, tiny_batch), expected)


def test_plain_bert_checkpoint_with_its_pooler(tiny_batch: Batch, tmp_path: Path) -> None:
    fields = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    bert = BertModel(BertConfig(**fields, intermediate_size=64)).eval()
    bert.save_pretrained(tmp_path)
    model, loading = LeapModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert model.config.resolve_exit_rule() == (None, 1, 1)
    torch.testing.assert_close(full_depth(model, tiny_batch), full_depth(bert, tiny_batch), atol=1e-5, rtol=0)


def test_hub_files_import_only_what_the_hub_has(repo_root: Path) -> None:
    allowed = set(sys.stdlib_module_names) | {"torch", "transformers"}
    for name, own in (("configuration_leap.py", set()), ("modeling_leap.py", {"configuration_leap"})):
        for node in ast.walk(ast.parse((repo_root / name).read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1, f"{name}: the Hub's loader follows imports of one dot only"
                modules = [node.module or ""]
            assert {module.split(".")[0] for module in modules} <= allowed | own


@pytest.mark.real_weights
def test_teacher_checkpoint_is_the_same_model(teacher_path: Path) -> None:
    texts = ["A man is playing a guitar.", "Hello!", "Il pleut.", "word " * 300]
    tokens = AutoTokenizer.from_pretrained(teacher_path)(texts, padding=True, return_tensors="pt")
    model, loading = LeapModel.from_pretrained(teacher_path, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    bert = BertModel.from_pretrained(teacher_path)
    torch.testing.assert_close(full_depth(model, tokens), full_depth(bert, tokens), atol=1e-5, rtol=0)


@pytest.mark.real_weights
def test_repository_is_a_model(repo_root: Path, tmp_path: Path) -> None:
    if not (repo_root / "model.safetensors").is_file():
        pytest.skip("no checkpoint at the root yet")
    code = """
import os, sys, torch
os.chdir(sys.argv[1])
sys.path[:] = [entry for entry in sys.path if entry not in ("", sys.argv[1])]
from transformers import AutoModel, AutoTokenizer
model = AutoModel.from_pretrained(".", trust_remote_code=True).eval()
assert type(model).__name__ == "LeapModel"
texts = ["Hello!", "A man is playing a guitar."]
tokens = AutoTokenizer.from_pretrained(".")(texts, padding=True, return_tensors="pt")
with torch.no_grad():
    early, full = model(**tokens, exit_threshold=-1), model(**tokens, exit_threshold=None)
assert (early.exit_layer < full.exit_layer).all()
plain = AutoModel.from_pretrained(".", trust_remote_code=False).eval()
assert type(plain).__name__ == "BertModel"
with torch.no_grad():
    torch.testing.assert_close(plain(**tokens).last_hidden_state, full.last_hidden_state, atol=1e-5, rtol=0)
"""
    run_elsewhere(code, repo_root, folder=tmp_path)
