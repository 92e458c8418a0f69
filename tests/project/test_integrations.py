"""docs/integrations.md: every block runs as it stands, offline, and its exits are those of the model."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from leap.encode.encoder import encode, load_encoder
from leap.encode.exits import row_cosines, unit_vectors

pytestmark = [pytest.mark.integrations, pytest.mark.real_weights]

NAME = "leap/LEAP-MiniLM-L6"
PACKAGES = {
    "sentence-transformers": "sentence_transformers",
    "LangChain": "langchain_huggingface",
    "LlamaIndex": "llama_index.embeddings.huggingface",
    "Chroma": "chromadb",
    "mteb": "mteb",
    "fastembed": "fastembed",
}
# By library: the thresholds that documents and queries leave by; 0.93 where it is not said.
THETAS = {"LangChain": (None, 0.93), "fastembed": (None, None)}
BLOCK = re.compile(r"^## (.+?)\n.*?^```python\n(.+?)^```", re.DOTALL | re.MULTILINE)
DOCUMENT, QUERY = "To change your password, open the settings.", "I forgot my login"

# What would go out fails, and is noted: a library may swallow the error.
GUARD = """
import socket

def outside(address):
    host = address[0] if isinstance(address, tuple) else ""
    return host not in ("127.0.0.1", "localhost", "::1", "", None)

def guard(real, where):
    def call(*arguments, **named):
        if outside(where(arguments)):
            with open("outside.txt", "a") as file:
                print(where(arguments), file=file)
            raise OSError("no network in this test")
        return real(*arguments, **named)
    return call

socket.getaddrinfo = guard(socket.getaddrinfo, lambda arguments: arguments[:1])
socket.socket.connect = guard(socket.socket.connect, lambda arguments: arguments[1])
"""
# What each block leaves behind, as (1, H) or (H,) vectors of DOCUMENT and QUERY, for the comparison.
LEFT = {
    "sentence-transformers": "document, query = model.encode([{document!r}, {query!r}], exit_threshold=0.93)",
    "LangChain": "document, query = documents[0], query",
    "LlamaIndex": "document, query = vectors[0], query",
    "Chroma": "assert found['ids'] == [['1']]\ndocument, query = leap([{document!r}, {query!r}])",
    "mteb": "document, query = model.encode([{{'text': [{document!r}, {query!r}]}}])",
    "fastembed": "document, query = model.embed([{document!r}, {query!r}])",
}
SAVE = "\nimport numpy as np\nnp.save('left.npy', np.array([document, query], dtype='float32'))"


def blocks(repo_root: Path) -> dict[str, str]:
    return dict(BLOCK.findall((repo_root / "docs" / "integrations.md").read_text()))


def test_there_is_a_block_for_each(repo_root: Path) -> None:
    text = (repo_root / "docs" / "integrations.md").read_text()
    assert set(blocks(repo_root)) == set(PACKAGES)
    assert text.count("```python") == len(PACKAGES)


@pytest.fixture(scope="module")
def folder(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as the Hub has it, elsewhere than in the repository."""
    copy = tmp_path_factory.mktemp("hub") / "LEAP-MiniLM-L6"
    copy.mkdir()
    for path in repo_root.iterdir():
        if path.suffix in (".json", ".safetensors") or path.name.endswith("_leap.py"):
            shutil.copy(path, copy)
    shutil.copytree(repo_root / "1_Pooling", copy / "1_Pooling")
    if (repo_root / "onnx" / "model.onnx").is_file():
        (copy / "onnx").mkdir()
        shutil.copy(repo_root / "onnx" / "model.onnx", copy / "onnx")
    return copy


@pytest.mark.parametrize("library", PACKAGES)
def test_block_runs_offline_with_the_models_exits(
    library: str, repo_root: Path, folder: Path, tmp_path: Path
) -> None:
    package = PACKAGES[library].partition(".")[0]
    if not importlib.util.find_spec(package):
        pytest.skip(f"no {package}: pip install -r requirements-integrations.txt")
    block = blocks(repo_root)[library]
    assert NAME in block
    if library == "mteb":  # which asks the Hub by this name; a folder comes as another argument
        block = block.replace(f'"{NAME}",', f'"{NAME}", source={str(folder)!r},')
    elif library == "fastembed":
        if not (folder / "onnx").is_dir():
            pytest.skip("no onnx/model.onnx: python -m leap.runtime export --model . --output onnx/")
        block = block.replace(
            f'Embedding("{NAME}"', f'Embedding("{NAME}", specific_model_path={str(folder)!r}'
        )
    else:
        block = block.replace(NAME, str(folder))
    left = LEFT[library].format(document=DOCUMENT, query=QUERY)
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "HOME": str(tmp_path),
        "PYTHONPATH": str(repo_root) if library == "mteb" else "",
    }
    environment.pop("HF_MODULES_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", GUARD + block + left + SAVE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    tried = tmp_path / "outside.txt"
    assert not tried.exists(), f"it asked the network for {tried.read_text()}"

    import numpy as np

    found = np.load(tmp_path / "left.npy", allow_pickle=False)
    encoder = load_encoder(str(folder))
    thetas = THETAS.get(library, (0.93, 0.93))
    for vector, text, theta in zip(found, (DOCUMENT, QUERY), thetas, strict=True):
        by_theta = {
            value: unit_vectors(encode(encoder, [text], exit_threshold=value).embeddings)[0]
            for value in (None, 0.93)
        }
        assert row_cosines(by_theta[None], by_theta[0.93]) < 0.9999  # or this could not fail
        np.testing.assert_allclose(unit_vectors(vector), by_theta[theta], atol=2e-5)
