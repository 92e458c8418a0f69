"""What must be true of a release: card, README.md, config, weights and results speak of the same model."""

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError

from configuration_leap import LeapConfig
from eval.card.card import ENTRIES, Card, render
from eval.card.card_facts import rule_words
from eval.card.card_results import Results, read_results
from leap.encode.encoder import load_encoder
from leap.errors import UsageError, first_line
from leap.publish.folder import CARD, ONNX, export_command

RENDER = "python -m eval card"
# What `python -m leap.runtime export` writes into the metadata of each graph: of which weights, which rule.
ONNX_WEIGHTS = "leap.model_sha256"
ONNX_RULE = ("leap.exit_threshold", "leap.min_exit_layer", "leap.exit_patience")


def check_card(root: Path, repository: str) -> tuple[Results, Card]:
    """Check config.json, the card and the Hub's evaluation entries against the results.

    Args:
        root: the tree.
        repository: OWNER/NAME, under which the card is to name the model.

    Returns:
        The results, and the card as it is to be on the Hub.

    Raises:
        UsageError: results are missing or of different models or exit rules, or the card is not what they
            render to, byte for byte.
    """
    results = read_results(root / "results", root / "config.json")
    card = render(results, repository)
    _same(root / CARD, (card.text, render(results).text))
    for name, entry in card.entries.items():
        _same(root / ENTRIES / name, (entry,))
    for path in sorted((root / ENTRIES).iterdir()):
        if path.name not in card.entries:
            raise UsageError(f"--folder: {path} is of no result: take it away, or measure it again")
    return results, card


def check_readme(root: Path, results: Results) -> None:
    """Raise a UsageError unless README.md states the exit rule that the config has and the results are of."""
    rule = rule_words(results.rule)
    text = (root / "README.md").read_text(encoding="utf-8")
    if rule not in " ".join(text.split()):
        raise UsageError(
            f"--folder: {root / 'README.md'} does not say '{rule}', the exit rule of config.json and "
            "results/: bring its section on where the model stands up to date"
        )


def check_weights(root: Path, results: Results) -> None:
    """Raise a UsageError unless weights, tokenizer and lengths are those the results were measured on."""
    measured = results.sts["models"]["model"]["sha256"]
    try:
        found = load_encoder(str(root), device="cpu", argument="--folder").fingerprint()
    except (SafetensorError, RuntimeError) as error:  # what loading says of torn files, and of other shapes
        raise UsageError(
            f"--folder: cannot load {str(root)!r}: {first_line(error)}: restore its weights"
        ) from error
    if found != measured:
        raise UsageError(
            f"--folder: weights or tokenizer ({found[:12]}) are not those the results were measured on "
            f"({measured[:12]}): measure again, or restore them"
        )


def check_onnx(root: Path) -> None:
    """Check that the exported graphs are of the weights and the exit rule in `root`, by their metadata.

    Raises:
        UsageError: one is not, or is no graph. The message names it.
    """
    import onnx  # here: what is released without graphs does without it

    weights = hashlib.sha256((root / "model.safetensors").read_bytes()).hexdigest()
    rule = LeapConfig.from_pretrained(root).resolve_exit_rule()
    for path in sorted((root / ONNX).rglob("*.onnx")):
        remedy = f"make it again with {export_command(root)}"
        try:
            properties = onnx.load(path, load_external_data=False).metadata_props
        except Exception as error:  # protobuf's own kinds
            raise UsageError(f"--folder: {path} is no ONNX graph: {remedy}") from error
        facts = {entry.key: entry.value for entry in properties}
        if facts.get(ONNX_WEIGHTS) != weights:
            raise UsageError(f"--folder: {path} was exported from other weights: {remedy}")
        if tuple(json.loads(facts.get(key, '""')) for key in ONNX_RULE) != rule:
            raise UsageError(f"--folder: {path} was exported with another exit rule: {remedy}")


def _same(path: Path, wanted: tuple[str, ...]) -> None:
    """Raise a UsageError unless the file has one of these contents, byte for byte."""
    if not path.is_file():
        raise UsageError(f"--folder: {path} is missing: make it with `{RENDER}`")
    content = path.read_bytes()
    if content in [text.encode() for text in wanted]:
        return
    here, there = content.splitlines(), wanted[-1].encode().splitlines()
    pairs = zip([*here, None], [*there, None], strict=False)
    line = next((number for number, (a, b) in enumerate(pairs, start=1) if a != b), len(here))
    raise UsageError(
        f"--folder: {path} and the results disagree, first in line {line}: make it again with `{RENDER}`"
    )
