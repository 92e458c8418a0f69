"""The leap path as a separate model: a plain BERT with few layers, for those who cannot run remote code.

Its layers are those that a converged text runs, and every text runs them: no exit, no code of this project.
"""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from configuration_leap import LeapConfig
from leap.encode.landing import Leap
from leap.errors import UsageError
from leap.publish.folder import OPTIONAL, File, write

_COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "LICENSE",
)
_LAYER = re.compile(r"^(.*encoder\.layer\.)(\d+)(\..*)$")
_CARD = """---
license: apache-2.0
library_name: sentence-transformers
pipeline_tag: sentence-similarity
base_model: sentence-transformers/all-MiniLM-L6-v2
tags: [sentence-transformers, feature-extraction]
---
# {name}

The short path of a LEAP model as a plain BERT of {count} layers: its layers {path} of {layers}.
In LEAP a text whose embedding has converged after layer {test} runs these {count}, and every other text
runs all {layers}. Here every text runs the {count}, whether it has converged or not.

- It needs no `trust_remote_code` and loads wherever BERT does.
- Its vectors are, to rounding, those of LEAP with `exit_threshold=-1`, and lie in the same space: an index
  made with LEAP, or with the model that LEAP was trained to be equal to, stays as it is.
- What is lost are the texts that LEAP sends the whole way: those that {count} layers get wrong most. The card
  of the LEAP model has the errors of both, of all texts leaping and at its own threshold.
- For full depth in plain BERT load the LEAP model itself without `trust_remote_code`.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{repository}")
vectors = model.encode(["How do I reset my password?"])
```
"""


def write_leap_depth(root: Path, folder: Path, repository: str) -> list[File]:
    """Write the model's leap path into an empty folder, with tokenizer, card and checksums.

    Args:
        root: a LEAP checkpoint with one test and a landing layer.
        folder: is there, and empty.
        repository: OWNER/NAME, of which the card speaks.

    Returns:
        The files, as `leap.publish.folder.write` gives them.

    Raises:
        UsageError: the model has no leap, or lacks a file.
    """
    missing = next(
        (name for name in ("model.safetensors", "config.json", *_COPIED) if not (root / name).is_file()), None
    )
    if missing:
        raise UsageError(f"--folder: {root / missing} is missing: restore it from version control")
    try:
        leap = Leap.of(LeapConfig.from_pretrained(root))
    except ValueError as error:
        raise UsageError(f"--folder: {root / 'config.json'}: {error}") from error
    names = [*_COPIED, *(name for name in OPTIONAL if (root / name).is_file())]
    texts = {
        "config.json": _json(_config(root, leap)),
        "modules.json": _json(_modules(root)),
        "README.md": _CARD.format(
            name=repository.rpartition("/")[2],
            repository=repository,
            path=", ".join(map(str, leap.path)),
            count=len(leap.path),
            layers=leap.layers,
            test=leap.test,
        ),
    }
    with tempfile.TemporaryDirectory() as work:
        weights = Path(work) / "model.safetensors"
        _write_weights(root / "model.safetensors", weights, leap)
        files = {name: root / name for name in names} | {"model.safetensors": weights}
        return write(folder, files, texts)


def _config(root: Path, leap: Leap) -> dict[str, Any]:
    """The config of a plain BertModel of the path's layers."""
    config = json.loads((root / "config.json").read_text(encoding="utf-8"))
    rule = ("exit_threshold", "min_exit_layer", "max_exit_layer", "exit_patience", "landing_layer")
    for name in ("auto_map", *rule):
        config.pop(name, None)
    return config | {"architectures": ["BertModel"], "num_hidden_layers": len(leap.path)}


def _modules(root: Path) -> list[dict[str, Any]]:
    """modules.json without the arguments of LEAP's forward, which BertModel does not have."""
    modules = json.loads((root / "modules.json").read_text(encoding="utf-8"))
    return [{key: value for key, value in module.items() if key != "kwargs"} for module in modules]


def _write_weights(source: Path, target: Path, leap: Leap) -> None:
    """The embeddings and the path's layers, renumbered."""
    numbers = {layer - 1: number for number, layer in enumerate(leap.path)}
    tensors = {}
    with safe_open(source, framework="pt") as file:
        for name in file.keys():
            found = _LAYER.match(name)
            if found is None:
                tensors[name] = file.get_tensor(name)
            elif int(found[2]) in numbers:
                tensors[f"{found[1]}{numbers[int(found[2])]}{found[3]}"] = file.get_tensor(name)
    save_file(tensors, target, metadata={"format": "pt"})


def _json(content: object) -> str:
    return json.dumps(content, indent=2) + "\n"
