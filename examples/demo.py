"""Encode sentences with LEAP and show how many layers each one runs, and what that saves.

    python examples/demo.py --texts "one sentence|another one"

The model is loaded as its users load it. Times are of one text at a time, full depth and exits interleaved,
medians; they are this machine's, at this moment.
"""

import argparse
import logging
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer, BatchEncoding
from transformers.utils import HF_MODULES_CACHE
from transformers.utils import logging as transformers_logging

ROOT = Path(__file__).resolve().parent.parent
WARM_UPS, ROUNDS = 5, 25
MAX_LENGTH = 256  # tokens, as all-MiniLM-L6-v2 was published

DEFAULT_TEXTS = [
    "Hello!",
    "A man is playing a guitar.",
    "How do I reset my password?",
    "The cat sat on the mat and looked out of the window.",
    "cheap flights from Berlin to Lisbon in May",
    "Interest rates rose for the third time this year, to the surprise of most economists.",
    "I don't know.",
    "Vitamin D supplementation does not lower the risk of fractures in healthy older adults.",
    "Colorless green ideas sleep furiously, while the parrot, unimpressed, files its taxes.",
    "The committee, having heard the engineers' objections, and against the advice of its own chair, decided "
    "to postpone the opening of the bridge until the inspection of the northern cables, which had been "
    "delayed twice by storms, could be completed and its findings reviewed by an independent laboratory.",
]


@dataclass(frozen=True)
class Row:
    """One text: layers it ran, cosine to its full-depth embedding, time at full depth and with exits."""

    text: str
    tokens: int
    layers: int
    cosine: float
    full_ms: float
    exit_ms: float


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; the exit status: 0, or 2 with one line of error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(ROOT), help="folder or Hub id (default: this repository)")
    parser.add_argument("--texts", help='texts, separated by "|" (default: a list of ten)')
    parser.add_argument("--file", type=Path, help="a file with one text per line")
    parser.add_argument("--exit_threshold", type=float, help="theta (default: the model's own)")
    args = parser.parse_args(argv)
    try:
        texts = read_texts(args.texts, args.file)
        model, tokenizer = load(args.model)
        rule: dict[str, Any] = {} if args.exit_threshold is None else {"exit_threshold": args.exit_threshold}
        thetas = model.config.exit_thresholds(**rule)
        if not thetas:
            raise ValueError("--exit_threshold: the model has none of its own: give one, such as 0.95")
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        print(f"demo: error: {reason}", file=sys.stderr)
        return 2
    depth = model.config.num_hidden_layers
    print(f"{args.model}: {depth} layers, {describe(thetas, model.config.landing_layer)}\n")
    print("layers   cosine to      full      with")
    print("   run  full depth     depth     exits  text")
    rows = []
    for text in texts:
        rows.append(measure(model, tokenizer, text, rule))
        print(line(rows[-1], depth), flush=True)
    print(f"\n{totals(rows, depth)}")
    return 0


def describe(thetas: dict[int, float], landing_layer: int | None) -> str:
    """The exit rule in words: theta by layer, and where texts that reach it go on."""
    tests = ", ".join(f"layer {layer} (theta {theta:g})" for layer, theta in thetas.items())
    then = "leave there" if landing_layer is None else f"skip to layer {landing_layer}"
    return f"tested after {tests}; converged texts {then}"


def read_texts(joined: str | None, file: Path | None) -> list[str]:
    """The texts asked for, of both places; the default list if none is.

    Raises:
        OSError: the file cannot be read.
        ValueError: there is no text in what was given.
    """
    if joined is None and file is None:
        return DEFAULT_TEXTS
    lines = (joined or "").split("|") + (file.read_text(encoding="utf-8").splitlines() if file else [])
    texts = [text.strip() for text in lines if text.strip()]
    if not texts:
        raise ValueError("--texts and --file hold no text: give at least one")
    return texts


def load(source: str) -> tuple[Any, Any]:
    """The model, in float32 and ready to encode, and its tokenizer.

    Raises:
        ValueError: there is no such model, or it is broken or has no exits.
    """
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise ValueError(f"--model: {source!r} holds no checkpoint (config.json): give a folder that does")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        # float32: the checkpoint is stored in float16, which processors compute slowly.
        model = AutoModel.from_pretrained(
            source, trust_remote_code=True, dtype=torch.float32, use_safetensors=True
        ).eval()
    except Exception as error:  # of whichever library reads the broken file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if HF_MODULES_CACHE.startswith(str(getattr(error, "filename", None) or "nowhere")):
            reason += ": set HF_MODULES_CACHE to a folder that can be written"
        raise ValueError(f"--model: cannot load {source!r}: {reason}") from error
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):  # made up where the files are missing
        raise ValueError(f"--model: {source!r} has no tokenizer: put tokenizer.json beside its weights")
    if not hasattr(model.config, "resolve_exit_rule"):
        raise ValueError(f"--model: {source!r} is not a LEAP model: give one that is")
    return model, tokenizer


@torch.inference_mode()
def measure(model: Any, tokenizer: Any, text: str, rule: dict[str, Any]) -> Row:
    """Encode `text` at full depth and with exits, interleaved, so that slowdowns affect both."""
    batch: BatchEncoding = tokenizer(text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    calls: list[dict[str, Any]] = [{"exit_threshold": None}, rule]
    times: list[list[float]] = [[], []]
    outputs: list[Any] = [None, None]
    for turn in range(WARM_UPS + ROUNDS):
        for which, call in enumerate(calls):
            start = time.perf_counter()
            outputs[which] = model(**batch, **call)
            if turn >= WARM_UPS:
                times[which].append((time.perf_counter() - start) * 1000)
    full, left = outputs
    cosine = torch.nn.functional.cosine_similarity(full.sentence_embedding, left.sentence_embedding).item()
    full_ms, exit_ms = (statistics.median(part) for part in times)
    return Row(text, batch["input_ids"].shape[1], left.layers_run.item(), cosine, full_ms, exit_ms)


def line(row: Row, depth: int, width: int = 60) -> str:
    """A row as a line of the table."""
    text = row.text if len(row.text) <= width else row.text[: width - 3] + "..."
    return (
        f"{row.layers:>3} of {depth}  {row.cosine:>8.4f}  {row.full_ms:>7.2f} ms{row.exit_ms:>7.2f} ms  "
        f"{text} ({row.tokens} tokens)"
    )


def totals(rows: list[Row], depth: int) -> str:
    """What all texts together show."""
    mean_layers = statistics.mean(row.layers for row in rows)
    full, left = sum(row.full_ms for row in rows), sum(row.exit_ms for row in rows)
    return (
        f"{len(rows)} texts: {mean_layers:.2f} of {depth} layers on average, "
        f"layer ratio {depth / mean_layers:.2f}, measured speedup {full / left:.2f} "
        f"({full:.1f} ms -> {left:.1f} ms)\n"
        f"lowest cosine to full depth {min(row.cosine for row in rows):.4f}; one text at a time, "
        f"{torch.get_num_threads()} threads of {os.cpu_count()} cores, {platform.machine()}, "
        f"torch {torch.__version__}"
    )


if __name__ == "__main__":
    sys.exit(main())
