"""Analysis of pasted texts: which skip layers, why, and what that saves. Independent of Gradio."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from configuration_leap import ExitThreshold
from leap.encode.encoder import Encoder
from leap.errors import UsageError

MAX_TEXTS, MAX_CHARACTERS = 50, 20_000
# Of a timing: at most so many rounds, and about so many milliseconds of full depth.
ROUNDS, PATIENCE_MS = 7, 1500


@dataclass(frozen=True)
class Rule:
    """The exit rule of a request, checked.

    Attributes:
        theta: a number, one a layer, or None for full depth.
        first_layer: l_min.
        thetas: theta of every layer at which a text may skip, in ascending order.
    """

    theta: float | list[float | None] | None
    first_layer: int
    thetas: dict[int, float]


@dataclass(frozen=True)
class Analysis:
    """N texts under a rule; layers are counted from 1.

    Attributes:
        texts: the texts.
        tokens: (N,) tokens of each, the two special ones included, after truncation.
        cut: (N,) whether it was truncated.
        skips: (N,) whether it converged and skipped layers.
        layers_run: (N,) layers that each ran.
        tested_at: (N,) the layer at which it converged; else the tested one at which it came nearest; 0
            where no layer is tested.
        cosines: (N,) s at that layer, the number that the rule compares with theta; NaN where none is.
        fidelity: (N,) cosine of its embedding with that of full depth.
        full_ms: median milliseconds of the whole batch at full depth.
        exits_ms: the same with exits.
        rounds: timed rounds, fewer where the texts are long.
    """

    texts: list[str]
    tokens: NDArray[np.integer]
    cut: list[bool]
    skips: NDArray[np.bool_]
    layers_run: NDArray[np.integer]
    tested_at: NDArray[np.integer]
    cosines: NDArray[np.floating]
    fidelity: NDArray[np.floating]
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
    config = encoder.model.config
    try:
        checked, first, _ = config.resolve_exit_rule(theta, first_layer)
        return Rule(checked, first, config.exit_thresholds(theta, first_layer))
    except ValueError as error:
        raise UsageError(str(error)) from error


def layer_range(encoder: Encoder) -> tuple[int, int]:
    """The lowest and the highest l_min that the model takes."""
    config = encoder.model.config
    last = config.num_hidden_layers if config.landing_layer is None else config.landing_layer - 2
    return config.exit_patience, min(last, config.max_exit_layer or last)


@torch.inference_mode()
def analyse(encoder: Encoder, texts: list[str], rule: Rule) -> Analysis:
    """Encode the texts at full depth and by the rule, and time both.

    The texts run as one batch, full depth and exits interleaved, so that slowdowns affect both.
    """
    model, length, batch = encoder.model, encoder.max_length, encoder.batch(texts)
    exits = {"exit_threshold": rule.theta, "min_exit_layer": rule.first_layer}
    layers = model(**batch, exit_threshold=None, output_layer_embeddings=True).layer_embeddings
    times: dict[str, list[float]] = {"full": [], "exits": []}
    outputs: dict[str, Any] = {}
    rounds = ROUNDS
    while len(times["full"]) <= rounds:  # the first round warms up
        for name, call in (("full", {"exit_threshold": None}), ("exits", exits)):
            since = time.perf_counter()
            outputs[name] = model(**batch, **call)
            outputs[name].sentence_embedding.cpu()  # waits for the device
            times[name].append((time.perf_counter() - since) * 1000)
        rounds = int(min(max(PATIENCE_MS / times["full"][0], 1), ROUNDS))

    full, left = outputs["full"], outputs["exits"]
    tested_at, cosines = _tests(layers.cpu().numpy(), rule, model.config.exit_patience)
    lengths = [len(ids) for ids in encoder.tokenizer(texts)["input_ids"]]
    return Analysis(
        texts=texts,
        tokens=np.minimum(lengths, length),
        cut=[count > length for count in lengths],
        skips=(left.layers_run < full.layers_run).cpu().numpy(),
        layers_run=left.layers_run.cpu().numpy(),
        tested_at=tested_at,
        cosines=cosines,
        fidelity=torch.cosine_similarity(left.sentence_embedding, full.sentence_embedding).cpu().numpy(),
        full_ms=float(np.median(times["full"][1:])),
        exits_ms=float(np.median(times["exits"][1:])),
        rounds=rounds,
    )


def _tests(
    layers: NDArray[np.floating], rule: Rule, patience: int
) -> tuple[NDArray[np.integer], NDArray[np.floating]]:
    """Of every text, the layer that decided or came nearest to theta, and s there; see `Analysis`.

    Args:
        layers: (N, L + 1, H) pooled embeddings, the embedding layer's first.
        rule: the exit rule.
        patience: k.
    """
    if not rule.thetas:
        return np.zeros(len(layers), dtype=int), np.full(len(layers), np.nan)
    tested = np.array(list(rule.thetas))
    unit = layers / np.maximum(np.linalg.norm(layers, axis=-1, keepdims=True), 1e-12)
    cosines = (unit[:, tested] * unit[:, tested - patience]).sum(-1)
    margin = cosines - np.array(list(rule.thetas.values()))
    reached = margin >= 0
    deciding = np.where(reached.any(1), reached.argmax(1), margin.argmax(1))
    return tested[deciding], cosines[np.arange(len(layers)), deciding]


def describe_rule(rule: Rule) -> str:
    """The rule in a few words: one threshold, or one a layer."""
    if not rule.thetas:
        return "no early exits, full depth"
    if not isinstance(rule.theta, list):
        at = "at" if len(rule.thetas) == 1 else "from"
        return f"theta {rule.theta:g} {at} layer {rule.first_layer}"
    return "theta " + ", ".join(f"{theta:g} at layer {n}" for n, theta in rule.thetas.items())


def summarise(found: Analysis, depth: int) -> str:
    """A summary of all texts in one or two sentences."""
    ratio, count = found.full_ms / found.exits_ms, len(found.texts)
    saved = 100 * (1 - 1 / ratio)
    change = f"{saved:.0f} % of the time saved" if saved >= 0.5 else "no time saved"
    by_turns = "1 round" if found.rounds == 1 else f"medians of {found.rounds} rounds by turns"
    lines = (
        f"**{found.skips.sum()}** of {count} text{'s' if count != 1 else ''} skip layers; **"
        f"{found.layers_run.mean():.2f}** of {depth} layers run on average. One batch: **{found.full_ms:.1f} "
        f"ms** at full depth, **{found.exits_ms:.1f} ms** with exits ({change}; {by_turns}, on this machine)."
    )
    cut = sum(found.cut)
    if cut:
        which = "1 text was" if cut == 1 else f"{cut} texts were"
        lines += f" {which} longer than the model reads and cut to {found.tokens.max()} tokens."
    return lines
