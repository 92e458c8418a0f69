"""Checks of a release: card, config, weights and graphs are of the same model and exit rule."""

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard
from safetensors import SafetensorError

from leap.encode.encoder import load_encoder
from leap.errors import UsageError, first_line
from leap.publish.folder import CARD, ENTRIES, ONNX, export_command

RENDER = "measure again, then `python -m eval card`"
RULE = ("exit_threshold", "min_exit_layer", "exit_patience", "landing_layer", "max_exit_layer")
# What `python -m leap.runtime export` writes into the metadata of each graph: of which weights, which rule.
ONNX_WEIGHTS = "leap.model_sha256"
ONNX_THETA, ONNX_RULE = "leap.exit_threshold", "leap.rule"


def read_card(root: Path, repository: str) -> tuple[str, dict[str, Any]]:
    """The model card, checked against config.json and the evaluation entries.

    Args:
        root: the tree.
        repository: OWNER/NAME, which takes the place of the placeholder in the card's snippets.

    Returns:
        The text as it is to be on the Hub, and `leap` of its metadata: `sha256` of the weights and the
        exit rule that its figures are of.

    Raises:
        UsageError: the metadata are no YAML, do not name the weights, or state another exit rule than
            config.json, or an entry has a value that the card has not.
    """
    path = root / CARD
    text = path.read_text(encoding="utf-8")
    try:
        card = ModelCard(text)
        measured = card.data.to_dict().get("leap")
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(f"--folder: {path} has no valid metadata ({first_line(error)}): {RENDER}") from error
    if not isinstance(measured, dict) or "sha256" not in measured:
        raise UsageError(f"--folder: {path} does not say of which weights it is: {RENDER}")
    config = json.loads((root / "config.json").read_text(encoding="utf-8"))
    for key in RULE:
        if measured.get(key) != config.get(key):
            raise UsageError(
                f"--folder: {path} is of {key} {measured.get(key)}, config.json of "
                f"{config.get(key)}: {RENDER}"
            )
    _check_entries(root, {round(result.metric_value, 4) for result in card.data.eval_results or ()})
    return text.replace(f"OWNER/{card.data.model_name}", repository), measured


def _check_entries(root: Path, values: set[float]) -> None:
    """Raise a UsageError unless every evaluation entry for the Hub has a value that the card lists too."""
    for path in sorted((root / ENTRIES).glob("*")):
        try:
            found = [entry["value"] for entry in yaml.safe_load(path.read_text(encoding="utf-8"))]
        except (yaml.YAMLError, TypeError, KeyError) as error:
            raise UsageError(f"--folder: {path} is not an evaluation entry: {RENDER}") from error
        if not set(found) <= values:
            raise UsageError(f"--folder: {path} and {CARD} disagree: {RENDER}")


def check_weights(root: Path, measured: dict[str, Any]) -> None:
    """Raise a UsageError unless weights, tokenizer and lengths are those that the card was measured on."""
    try:
        found = load_encoder(str(root), device="cpu", argument="--folder").fingerprint()
    except (SafetensorError, RuntimeError) as error:  # damaged files and wrong shapes
        raise UsageError(
            f"--folder: cannot load {str(root)!r}: {first_line(error)}: restore its weights"
        ) from error
    if found != measured["sha256"]:
        raise UsageError(
            f"--folder: weights or tokenizer ({found[:12]}) are not those the card was measured on "
            f"({measured['sha256'][:12]}): {RENDER}, or restore them"
        )


def check_onnx(root: Path) -> None:
    """Check that the exported graphs are of the weights and the exit rule in `root`, by their metadata.

    Raises:
        UsageError: one is not, or is no graph. The message names it.
    """
    import onnx  # here: not needed for a release without graphs

    from leap.runtime.session import rule_of

    weights = hashlib.sha256((root / "model.safetensors").read_bytes()).hexdigest()
    config = json.loads((root / "config.json").read_text(encoding="utf-8"))
    rule = (config.get("exit_threshold"), rule_of(config))
    for path in sorted((root / ONNX).rglob("*.onnx")):
        remedy = f"make it again with {export_command(root)}"
        try:
            properties = onnx.load(path, load_external_data=False).metadata_props
        except Exception as error:  # of protobuf
            raise UsageError(f"--folder: {path} is not an ONNX graph: {remedy}") from error
        facts = {entry.key: entry.value for entry in properties}
        if facts.get(ONNX_WEIGHTS) != weights:
            raise UsageError(f"--folder: {path} was exported from other weights: {remedy}")
        if (json.loads(facts.get(ONNX_THETA, '""')), facts.get(ONNX_RULE)) != rule:
            raise UsageError(f"--folder: {path} was exported with another exit rule: {remedy}")
