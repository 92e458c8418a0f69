"""A BERT checkpoint as numpy arrays, read without torch."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

WEIGHTS = "model.safetensors"
TOKENIZER_CONFIG = "tokenizer_config.json"
SENTENCE_CONFIG = "sentence_bert_config.json"
_DTYPES = {"F32": np.float32, "F16": np.float16, "F64": np.float64}


@dataclass(frozen=True)
class Checkpoint:
    """A BERT encoder's configuration and weights.

    Attributes:
        folder: where it lies.
        config: the content of config.json.
        weights: float32 arrays by their name in `BertModel`, such as `encoder.layer.0.output.dense.weight`.
        sha256: of the file of weights, in hex.
    """

    folder: Path
    config: dict[str, Any]
    weights: dict[str, FloatArray] = field(repr=False)
    sha256: str


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json.

    Raises:
        ValueError: there is none, or it is not that of a BERT encoder.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} has no config.json: give the folder of a checkpoint")
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("model_type") != "bert":
        raise ValueError(
            f"{str(folder)!r} is a model of type {config.get('model_type')!r}: give a BERT encoder"
        )
    return config


def max_tokens(folder: Path, config: dict[str, Any]) -> int:
    """Tokens a text is cut to, the two special ones included: as it was published, else all it can take."""
    # sentence-transformers keeps it in a file of its own, newer versions in the tokenizer's.
    lengths = [config["max_position_embeddings"]]
    for name, key in ((SENTENCE_CONFIG, "max_seq_length"), (TOKENIZER_CONFIG, "model_max_length")):
        path = folder / name
        stated = json.loads(path.read_text(encoding="utf-8")).get(key) if path.is_file() else None
        if stated:
            lengths.append(stated)
    return int(min(lengths))


def weights_sha256(folder: Path) -> str | None:
    """sha256, in hex, of the file of weights; None where there is none."""
    path = folder / WEIGHTS
    if not path.is_file():
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read configuration and weights.

    Args:
        folder: with config.json and model.safetensors.

    Raises:
        ValueError: it is no BERT encoder, has no safetensors file, or lacks weights.
    """
    config = read_config(folder)
    sha256 = weights_sha256(folder)
    if sha256 is None:
        raise ValueError(f"{str(folder)!r} has no {WEIGHTS}: save the model in that format")
    weights = _read_safetensors(folder / WEIGHTS)
    wanted = ["embeddings.word_embeddings.weight"]
    wanted += [f"encoder.layer.{number}.output.dense.weight" for number in range(config["num_hidden_layers"])]
    missing = [name for name in wanted if name not in weights]
    if missing:
        raise ValueError(f"{str(folder)!r} lacks weights: {missing[:3]}")
    return Checkpoint(folder, config, weights, sha256)


def _read_safetensors(path: Path) -> dict[str, FloatArray]:
    """All floating-point tensors of a file, as float32 and without the prefix of a model with a head.

    The format is read here because numpy, and so safetensors' reader for it, has no bfloat16.
    """
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    tensors = {}
    for name, entry in json.loads(content[8:start]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        data = memoryview(content)[start + begin : start + end]
        if entry["dtype"] == "BF16":
            # The upper half of a float32.
            array = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
        elif entry["dtype"] in _DTYPES:
            array = np.frombuffer(data, _DTYPES[entry["dtype"]]).astype(np.float32)
        else:
            continue
        tensors[name.removeprefix("bert.")] = array.reshape(entry["shape"])
    return tensors
