"""What the page says about pasted texts: where each leaves, why, and what that saves. No Gradio in here."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from configuration_leap import ExitThreshold
from eval.speed.timing import clock, in_turns, timed_inference, tokenize
from leap.encode.encoder import Encoder, encode_layers
from leap.encode.exits import FloatArray, IntArray, at_layers, exit_layers, row_cosines, successive_cosines
from leap.errors import UsageError

MAX_TEXTS, MAX_CHARACTERS = 50, 20_000
ROUNDS, PATIENCE_MS = (
    7,
    1500,
)  # of a timing: at most so many rounds, and about so long for those at full depth


@dataclass(frozen=True)
class Rule:
    """The exit rule of a request, checked.

    Attributes:
        theta: a number, one a layer, or None for full depth.
        first_layer: l_min.
        patience: k.
    """

    theta: float | list[float | None] | None
    first_layer: int
    patience: int

    def thetas(self, depth: int) -> list[float | None]:
        """Theta of layers 1 .. depth; None where nothing leaves."""
        each = self.theta if isinstance(self.theta, list) else [self.theta] * depth
        return [theta if self.first_layer <= n < depth else None for n, theta in enumerate(each, start=1)]


@dataclass(frozen=True)
class Analysis:
    """N texts under a rule; layers are counted from 1.

    Attributes:
        texts: the texts.
        tokens: (N,) tokens of each, the two special ones included, after truncation.
        cut: (N,) whether it was truncated.
        cosines: (N, L) s_l, the number that the rule compares with theta; NaN in the first k columns.
        layers: (N,) where each leaves.
        fidelity: (N,) cosine of its embedding there with that of full depth.
        full_ms: median milliseconds of the whole batch at full depth.
        exits_ms: the same with exits.
        rounds: timed rounds, fewer where the texts are long.
    """

    texts: list[str]
    tokens: IntArray
    cut: list[bool]
    cosines: FloatArray
    layers: IntArray
    fidelity: FloatArray
    full_ms: float
    exits_ms: float
    rounds: int


def split_texts(pasted: str | None) -> list[str]:
    """The texts of a box, one a line, without blank lines.

    Raises:
        UsageError: there is none, or more than the page takes.
    """
    pasted = pasted or ""
    if len(pasted) > MAX_CHARACTERS:
        raise UsageError(
            f"These are {len(pasted):,} characters; this page takes {MAX_CHARACTERS:,}. Leave some out."
        )
    texts = [line.strip() for line in pasted.splitlines() if line.strip()]
    if not texts:
        raise UsageError("There is no text yet: type or paste some, one a line.")
    if len(texts) > MAX_TEXTS:
        raise UsageError(f"These are {len(texts)} texts; this page takes {MAX_TEXTS}. Leave some out.")
    return texts


def make_rule(
    encoder: Encoder, theta: ExitThreshold | str = "config", first_layer: int | None = None
) -> Rule:
    """The rule of these settings, "config" and None being the model's own.

    Raises:
        UsageError: a value out of its range.
    """
    try:
        return Rule(*encoder.exit_rule(theta, first_layer))
    except UsageError as error:
        raise UsageError(str(error).lstrip("-")) from error  # there is no command line here


def analyse(encoder: Encoder, texts: list[str], rule: Rule) -> Analysis:
    """Encode the texts at every layer, apply the rule, and time it against full depth.

    The texts run as one batch, full depth and exits by turns, so that what slows the machine slows both.
    """
    depth = encoder.depth
    since = clock(encoder.model.device)
    layers = encode_layers(encoder, texts, batch_size=MAX_TEXTS)
    rounds = int(min(max(PATIENCE_MS / (clock(encoder.model.device) - since), 1), ROUNDS))
    cosines = successive_cosines(layers, rule.patience)
    left = exit_layers(cosines, rule.theta, rule.first_layer)

    model, batch = encoder.model, tokenize(encoder, texts)
    calls: dict[str, dict[str, Any]] = {
        "full": {"exit_threshold": None},
        "exits": {"exit_threshold": rule.theta, "min_exit_layer": rule.first_layer},
    }
    variants = {name: lambda _, call=call: model(**batch, **call).exit_layer for name, call in calls.items()}
    with timed_inference(model):
        times, _ = in_turns(variants, rounds=rounds, warm_up=1, device=model.device)
    lengths = [len(ids) for ids in encoder.tokenizer(texts)["input_ids"]]
    return Analysis(
        texts=texts,
        tokens=np.minimum(lengths, encoder.max_length),
        cut=[length > encoder.max_length for length in lengths],
        cosines=cosines,
        layers=left,
        fidelity=row_cosines(at_layers(layers, left), layers[:, depth - 1]),
        full_ms=float(np.median(times["full"])),
        exits_ms=float(np.median(times["exits"])),
        rounds=rounds,
    )


def describe_rule(rule: Rule, depth: int) -> str:
    """The rule in a few words: one threshold, or one a layer."""
    exits = [(n, theta) for n, theta in enumerate(rule.thetas(depth), start=1) if theta is not None]
    if not exits:
        return "no early exits, full depth"
    if not isinstance(rule.theta, list):
        return f"theta {rule.theta:g} from layer {rule.first_layer}"
    return "theta " + ", ".join(f"{theta:g} at layer {n}" for n, theta in exits)


def summarise(found: Analysis, depth: int) -> str:
    """What all texts together show, in a sentence or two."""
    mean, ratio = found.layers.mean(), found.full_ms / found.exits_ms
    count = "1 text leaves" if len(found.texts) == 1 else f"{len(found.texts)} texts leave"
    saved = 100 * (1 - 1 / ratio)
    change = f"{saved:.0f} % of the time saved" if saved >= 0.5 else "no time saved"
    by_turns = "1 round" if found.rounds == 1 else f"medians of {found.rounds} rounds by turns"
    lines = (
        f"{count} at layer **{mean:.2f}** of {depth} on average. One batch: **{found.full_ms:.1f} ms** at "
        f"full depth, **{found.exits_ms:.1f} ms** with exits ({change}; {by_turns}, on this machine)."
    )
    cut = sum(found.cut)
    if cut:
        which = "1 text was" if cut == 1 else f"{cut} texts were"
        lines += f" {which} longer than the model reads and cut to {found.tokens.max()} tokens."
    return lines
