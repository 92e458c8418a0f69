"""docs/integrations.md and docs/serving.md: every block runs as it stands, offline, with the exits."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from leap.encode.encoder import encode, load_encoder
from leap.encode.exits import row_cosines, unit_vectors
from leap.runtime import LeapEncoder
from leap.runtime.export import export

pytestmark = [pytest.mark.integrations, pytest.mark.real_weights]

NAME = "leap/LEAP-MiniLM-L6"
DOCUMENT, QUERY = "To change your password, open the settings.", "I forgot my login"
# By page and block: its package.
PACKAGES = {
    "integrations": {
        "sentence-transformers": "sentence_transformers",
        "LangChain": "langchain_huggingface",
        "LlamaIndex": "llama_index.embeddings.huggingface",
        "Chroma": "chromadb",
        "mteb": "mteb",
    },
    "serving": {
        "LeapEncoder": "onnxruntime",
        "fastembed": "fastembed",
        "txtai": "txtai",
        "Haystack": "haystack_integrations.components.embedders.fastembed",
        "sentence-transformers on ONNX": "optimum.onnxruntime",
    },
}
# By block: the thresholds that documents and queries leave by, where it is not that of the config for both.
THETAS = {
    "sentence-transformers": (-1, -1),
    "LangChain": (None, -1),
    "LlamaIndex": (-1, -1),
    "Chroma": (-1, -1),
    "mteb": (-1, -1),
}
BLOCK = re.compile(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.+?)^```", re.DOTALL | re.MULTILINE)

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
BOTH = f"[{DOCUMENT!r}, {QUERY!r}]"
# What each block leaves behind, as (1, H) or (H,) vectors of DOCUMENT and QUERY, for the comparison.
LEFT = {
    "sentence-transformers": f"document, query = model.encode({BOTH}, exit_threshold=-1)",
    "LangChain": "document, query = documents[0], query",
    "LlamaIndex": "document, query = vectors[0], query",
    "Chroma": f"assert found['ids'] == [['1']]\ndocument, query = leap({BOTH})",
    "mteb": f"document, query = model.encode([{{'text': {BOTH}}}])",
    "LeapEncoder": f"document, query = encoder.encode({BOTH})",
    "fastembed": f"document, query = model.embed({BOTH})",
    "txtai": f"document, query = embeddings.batchtransform({BOTH})",
    "Haystack": "document, query = documents[0].embedding, query",
    "sentence-transformers on ONNX": f"document, query = model.encode({BOTH})",
}
SAVE = "\nimport numpy as np\nnp.save('left.npy', np.array([document, query], dtype='float32'))"


def blocks(repo_root: Path, page: str) -> dict[str, str]:
    return dict(BLOCK.findall((repo_root / "docs" / f"{page}.md").read_text()))


@pytest.mark.parametrize("page", PACKAGES)
def test_there_is_a_block_for_each(repo_root: Path, page: str) -> None:
    text = (repo_root / "docs" / f"{page}.md").read_text()
    assert set(blocks(repo_root, page)) == set(PACKAGES[page])
    assert text.count("```python") == len(PACKAGES[page])


@pytest.fixture(scope="module")
def folder(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as the Hub has it, elsewhere than in the repository; of the two texts one leaps."""
    copy = tmp_path_factory.mktemp("hub") / "LEAP-MiniLM-L6"
    copy.mkdir()
    for path in repo_root.iterdir():
        if path.suffix in (".json", ".safetensors") or path.name.endswith("_leap.py"):
            shutil.copy(path, copy)
    shutil.copytree(repo_root / "1_Pooling", copy / "1_Pooling")
    config = json.loads((copy / "config.json").read_text())
    if config.get("landing_layer") is None:  # weights of the paper's form leap too, if not well
        config |= {"landing_layer": 5, "min_exit_layer": 1, "max_exit_layer": 1}
    (copy / "config.json").write_text(
        json.dumps(config | {"exit_threshold": similarity_between(copy, config)})
    )
    export(copy, copy / "onnx")
    return copy


def similarity_between(folder: Path, config: dict[str, Any]) -> float:
    """A threshold halfway between the two texts' s_1."""
    (folder / "config.json").write_text(json.dumps(config))
    encoder = load_encoder(str(folder), device="cpu")
    with torch.inference_mode():
        batch = encoder.tokenizer([DOCUMENT, QUERY], padding=True, return_tensors="pt")
        layers = encoder.model(**batch, output_layer_embeddings=True).layer_embeddings
    return float(torch.cosine_similarity(layers[:, 1], layers[:, 0], dim=1).mean())


def compare(found: np.ndarray, folder: Path, thetas: tuple[Any, Any] = ("config", "config")) -> None:
    """Hold vectors of DOCUMENT and QUERY to the model's under the threshold of each."""
    encoder = load_encoder(str(folder), device="cpu")
    for vector, text, theta in zip(found, (DOCUMENT, QUERY), thetas, strict=True):
        by_theta = {
            value: unit_vectors(encode(encoder, [text], exit_threshold=value).embeddings)[0]
            for value in (None, -1, "config")
        }
        assert row_cosines(by_theta[None], by_theta[-1]) < 0.9999  # or this could not fail
        assert_allclose(unit_vectors(vector), by_theta[theta], atol=2e-5)


def is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of a package above it
        return False


@pytest.mark.parametrize(("page", "library"), [(page, name) for page in PACKAGES for name in PACKAGES[page]])
def test_block_runs_offline_with_the_models_exits(
    page: str, library: str, repo_root: Path, folder: Path, tmp_path: Path
) -> None:
    package = PACKAGES[page][library]
    if not is_there(package):
        pytest.skip(f"no {package}: pip install -r requirements-integrations.txt")
    block = blocks(repo_root, page)[library]
    assert NAME in block
    if library == "mteb":  # which asks the Hub by this name; a folder comes as another argument
        block = block.replace(f'"{NAME}",', f'"{NAME}", source={str(folder)!r},')
    elif library == "txtai":
        path = f'"{folder}/onnx/model.onnx", tokenizer="{folder}/tokenizer.json"'
        block = block.replace(f'"{NAME}/onnx/model.onnx"', path)
    elif library == "fastembed":
        block = block.replace(f'g("{NAME}"', f'g("{NAME}", specific_model_path={str(folder)!r}')
    elif library == "Haystack":
        place = {"specific_model_path": str(folder)}
        block = block.replace(f'r(model="{NAME}"', f'r(model="{NAME}", model_kwargs={place!r}')
    else:
        block = block.replace(NAME, str(folder))
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "HOME": str(tmp_path),
        "PYTHONPATH": str(repo_root) if library in ("mteb", "LeapEncoder") else "",
    }
    environment.pop("HF_MODULES_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", GUARD + block + LEFT[library] + SAVE],
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
    compare(np.load(tmp_path / "left.npy", allow_pickle=False), folder, THETAS.get(library, ("config",) * 2))


SCRIPT = """
import {{ env }} from "@huggingface/transformers";
env.allowRemoteModels = false;
env.localModelPath = {parent!r};
{block}
console.log(JSON.stringify((await embed({texts}, {{ pooling: "mean", normalize: true }})).tolist()));
"""


# As browsers run it: the same files on WebAssembly, in Node.
WEB = """
import * as ort from "onnxruntime-web";
import {{ readFileSync }} from "node:fs";
ort.env.wasm.numThreads = 1;
const options = {{ executionProviders: ["wasm"], logSeverityLevel: 3 }};
const session = await ort.InferenceSession.create(readFileSync({file!r}), options);
const found = [];
for (const ids of {ids}) {{
  const tensor = (row) => new ort.Tensor("int64", BigInt64Array.from(row, BigInt), [1, row.length]);
  const output = await session.run({{ input_ids: tensor(ids), attention_mask: tensor(ids.map(() => 1)) }});
  found.push(Array.from(output.sentence_embedding.data));
}}
console.log(JSON.stringify(found));
"""


def run_in_node(script: str, tmp_path: Path) -> np.ndarray:
    """The vectors that a script prints."""
    modules = Path(sys.prefix) / "node_modules"
    if not shutil.which("node") or not (modules / "@huggingface").is_dir():
        pytest.skip("no transformers.js: make test-integrations installs it where there is node")
    (tmp_path / "node_modules").symlink_to(modules)
    (tmp_path / "run.mjs").write_text(script)
    environment = os.environ | {"ORT_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        ["node", "run.mjs"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout.splitlines()[-1]), np.float32)


@pytest.mark.parametrize("dtype", ["fp32", "q8"])
def test_transformers_js(repo_root: Path, folder: Path, tmp_path: Path, dtype: str) -> None:
    (block,) = re.findall(r"^```js\n(.+?)^```", (repo_root / "docs" / "serving.md").read_text(), re.M | re.S)
    block = "\n".join(line for line in block.splitlines() if not line.startswith("const vectors"))
    block = block.replace(NAME, folder.name).replace('"fp32"', f'"{dtype}"')
    texts = json.dumps([DOCUMENT, QUERY])
    found = run_in_node(SCRIPT.format(parent=f"{folder.parent}/", block=block, texts=texts), tmp_path)
    if dtype == "fp32":
        compare(found, folder)
    else:
        assert_allclose(found, in_int8(folder, 2), atol=1e-2)


@pytest.mark.parametrize("name", ["model.onnx", "model_quantized.onnx"])
def test_onnxruntime_web(folder: Path, tmp_path: Path, name: str) -> None:
    tokenizer = load_encoder(str(folder), device="cpu").tokenizer
    ids = json.dumps([tokenizer(text, truncation=True)["input_ids"] for text in (DOCUMENT, QUERY)])
    found = run_in_node(WEB.format(file=str(folder / "onnx" / name), ids=ids), tmp_path)
    if name == "model.onnx":
        compare(found, folder)
    else:
        assert_allclose(unit_vectors(found), in_int8(folder, 1), atol=1e-2)


def in_int8(folder: Path, batch_size: int) -> np.ndarray:
    """Of batches as the other program forms them, as int8 rounds the texts of a batch together."""
    return LeapEncoder.from_pretrained(folder, precision="int8").encode([DOCUMENT, QUERY], batch_size)
