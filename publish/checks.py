"""What must be true of a release: card, README.md, config, weights and results speak of the same model."""

from pathlib import Path

from safetensors import SafetensorError

from eval.card import ENTRIES, Card, render
from eval.card_facts import rule_words
from eval.card_results import Results, read_results
from eval.encode import load_encoder
from eval.errors import UsageError, first_line
from publish.folder import CARD, ONNX, export_command

RENDER = "python -m eval card"
ONNX_KEY = "model_sha256"  # in the metadata of an exported graph: the fingerprint of its weights


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


def check_weights(root: Path, results: Results) -> str:
    """The fingerprint of the model in `root`.

    Raises:
        UsageError: weights, tokenizer or maximal length are not those that the results were measured on.
    """
    measured = results.sts["models"]["model"]["sha256"]
    try:
        found = load_encoder(str(root), device="cpu", argument="--folder").fingerprint()
    except (SafetensorError, RuntimeError) as error:  # what loading says of torn files, and of other shapes
        raise UsageError(
            f"--folder: the weights in {root} cannot be loaded ({first_line(error)}): restore them"
        ) from error
    if found != measured:
        raise UsageError(
            f"--folder: weights or tokenizer ({found[:12]}) are not those the results were measured on "
            f"({measured[:12]}): measure again, or restore them"
        )
    return found


def check_onnx(root: Path, fingerprint: str) -> None:
    """Raise a UsageError unless every graph says in its metadata that it was exported from these weights.

    Args:
        root: the tree.
        fingerprint: of its model, see `eval.encode.Encoder.fingerprint`.
    """
    import onnx  # here: what is released without graphs does without it

    remedy = f"make it again with {export_command(root)}"
    for path in sorted((root / ONNX).rglob("*.onnx")):
        try:
            properties = onnx.load(path, load_external_data=False).metadata_props
        except Exception as error:  # protobuf's own kinds
            raise UsageError(f"--folder: {path} is no ONNX graph: {remedy}") from error
        if dict((entry.key, entry.value) for entry in properties).get(ONNX_KEY) != fingerprint:
            raise UsageError(f"--folder: {path} was exported from other weights: {remedy}")


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
