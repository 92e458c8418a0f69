"""By Hub id, with torch and transformers alone: a pinned commit, the newest, the plain fallback."""

from collections.abc import Callable
from pathlib import Path

import tiny_data
import torch
from fake_hub import FakeHub
from hub_machine import Machine
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import AutoTokenizer

from modeling_leap import LeapModel

TEXTS = [" ".join(tiny_data.WORDS[i : i + 1 + i % 7]) for i in range(len(tiny_data.WORDS))]


def encode_locally(folder: Path, **rule: object) -> tuple[Tensor, Tensor]:
    """Embeddings (N, H) and exit layers (N,) of TEXTS by the model in a folder."""
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = LeapModel.from_pretrained(folder).eval()(**tokens, **rule)
    return output.sentence_embedding, output.exit_layer


LOAD = """
import sys, torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer

name, commit, out, *texts = sys.argv[1:]
assert not any(module in sys.modules for module in ("modeling_leap", "configuration_leap"))
tokens = AutoTokenizer.from_pretrained(name, revision=commit)(texts, padding=True, return_tensors="pt")
results = {}
for key, revision, newer in (("pinned", commit, False), ("newest", "main", True)):
    model = AutoModel.from_pretrained(name, trust_remote_code=True, revision=revision).eval()
    assert type(model).__name__ == "LeapModel"
    assert hasattr(sys.modules[type(model).__module__], "NEWER") is newer, revision
    with torch.no_grad():
        output = model(**tokens)
    results[key], results[f"{key} layers"] = output.sentence_embedding, output.exit_layer
plain = AutoModel.from_pretrained(name, trust_remote_code=False, revision=commit).eval()
assert type(plain).__module__.startswith("transformers.models.bert."), type(plain)
mask = tokens["attention_mask"].unsqueeze(-1)
with torch.no_grad():
    results["plain"] = (plain(**tokens).last_hidden_state * mask).sum(1) / mask.sum(1)
save_file(results, out)
"""


def test_a_pinned_commit_stays_what_it_was(
    make_tiny_model: Callable[..., LeapModel], tmp_path: Path, repo_root: Path
) -> None:
    folder = tiny_data.save_tiny(tmp_path / "model", make_tiny_model(**tiny_data.RULE))
    with FakeHub() as hub:
        machine = Machine(hub, tmp_path / "user", repo_root)
        machine.folder.mkdir()
        check_pinning(machine, folder)


def check_pinning(machine: Machine, folder: Path) -> None:
    """Commit the folder, then other weights and code; load both commits, and the first without its code."""
    hub = machine.hub
    commit = hub.commit("owner/moving", folder)
    weights = {name: tensor * 1.5 for name, tensor in load_file(folder / "model.safetensors").items()}
    code = (folder / "modeling_leap.py").read_bytes() + b"\nNEWER = True\n"
    newer = {"model.safetensors": save(weights, {"format": "pt"}), "modeling_leap.py": code}
    assert hub.commit("owner/moving", newer) != commit

    out = machine.folder / "out.safetensors"
    done = machine.run("-c", LOAD, "owner/moving", commit, out, *TEXTS, token=None, here=False)
    assert done.returncode == 0, done.stderr
    results = load_file(out)
    embeddings, layers = encode_locally(folder)
    assert len(layers.unique()) > 1
    torch.testing.assert_close(results["pinned"], embeddings)
    assert torch.equal(results["pinned layers"], layers)
    assert not torch.allclose(results["newest"], embeddings, atol=0.1)
    full_depth, _ = encode_locally(folder, exit_threshold=None)
    torch.testing.assert_close(results["plain"], full_depth, atol=1e-5, rtol=0)
