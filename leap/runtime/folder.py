"""A checkpoint's folder as the encoder reads it, without torch and transformers."""

import json
from pathlib import Path
from typing import Any

from onnxruntime import InferenceSession

from leap.runtime.session import FOLDER, WEIGHTS, file_name, open_session, rule_of, sha256

TOKENIZER_CONFIG = "tokenizer_config.json"
SENTENCE_CONFIG = "sentence_bert_config.json"


def find_folder(folder_or_id: str | Path, revision: str | None, precision: str) -> Path:
    """The folder of a model; of a Hub id, what the encoder reads is downloaded.

    Raises:
        ValueError: it is neither a folder nor of the form of a Hub id.
    """
    folder = Path(folder_or_id)
    if folder.is_dir():
        return folder
    name = str(folder_or_id)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ValueError(f"{name!r} is neither a folder nor a Hub id (owner/name): check it")
    from huggingface_hub import snapshot_download  # here: a server with a folder does without

    files = ["config.json", "tokenizer.json", SENTENCE_CONFIG, TOKENIZER_CONFIG]
    files.append(f"{FOLDER}/{file_name('exit', precision)}")
    return Path(snapshot_download(name, revision=revision, allow_patterns=files))


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
    """How many tokens a text is truncated to, special ones included: as published, or else the maximum."""
    # sentence-transformers keeps it in a file of its own, newer versions in the tokenizer's.
    lengths = [config["max_position_embeddings"]]
    for name, key in ((SENTENCE_CONFIG, "max_seq_length"), (TOKENIZER_CONFIG, "model_max_length")):
        path = folder / name
        stated = json.loads(path.read_text(encoding="utf-8")).get(key) if path.is_file() else None
        if stated:
            lengths.append(stated)
    return int(min(lengths))


def open_graph(
    folder: Path, config: dict[str, Any], precision: str, threads: int | None
) -> tuple[InferenceSession, dict[str, str]]:
    """A session over the graph with the exit inside, and the graph's metadata.

    Args:
        folder: of the checkpoint.
        config: the content of its config.json.
        precision: "float32" or "int8".
        threads: as `open_session`.

    Raises:
        ValueError: there is no such file, or it was made from other weights or for another rule.
    """
    file = f"{FOLDER}/{file_name('exit', precision)}"
    remedy = f"make it with python -m leap.runtime export --model {folder} --output {folder / FOLDER}"
    if not (folder / file).is_file():
        raise ValueError(f"{str(folder)!r} has no {file}: {remedy}")
    session = open_session(folder / file, threads)
    facts = dict(session.get_modelmeta().custom_metadata_map)
    weights = folder / WEIGHTS
    made_of = facts.get("leap.model_sha256")
    if weights.is_file() and sha256(weights) != made_of:
        raise ValueError(f"{file} was made from other weights: {remedy}")
    if facts.get("leap.rule") != rule_of(config):
        raise ValueError(f"{file} was made for another exit rule than config.json has: {remedy}")
    return session, facts
