"""Do the fast ways to run the model agree with the slow one: one text at a time, in torch?

    python -m eval correctness --model . --output results/correctness.json

Each path encodes the same real texts. A text that leaves at another layer, or whose embedding differs by
more than the tolerance, is counted; apart from these, texts with a cosine within 1e-4 of its threshold, which
rounding may carry to the other side. A path of other weights (int8) has no such target: how far its
embeddings and exits are is told as a distribution.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from eval.frame import Batched, OfModel
from eval.quality.oracle import TIE_BAND, TOLERANCE
from eval.report import Report
from eval.speed.runtimes import load_runtime
from leap.arguments import check_at_least, option
from leap.encode.encoder import Encoder, Encoding, encode
from leap.encode.exits import row_cosines, theta_text
from leap.errors import UsageError
from leap.files import checksum
from leap.text.reading import TextSource, iterate_texts
from leap.text.samples import Texts

WINDOW = 1024  # texts of like lengths among which batches are drawn: much company, little padding
SEED = 0
QUANTILES = (0.0, 0.01, 0.05, 0.5)


@dataclass(frozen=True)
class Reference:
    """The results of one text at a time.

    Attributes:
        encoding: of N texts, with the model's own exits.
        tied: (N,) bool, a cosine that was compared with its threshold is within the tie band.
    """

    encoding: Encoding
    tied: np.ndarray


@dataclass(frozen=True)
class Way:
    """A way to encode N texts.

    Attributes:
        encode: texts to embeddings and exit layers, by the model's own exit rule.
        exact: its weights are the model's, so that its results have to be.
    """

    encode: Callable[[Sequence[str]], Encoding]
    exact: bool = True


def one_at_a_time(encoder: Encoder, texts: Sequence[str], progress: str | None = None) -> Reference:
    """Encode each text alone, as a batch of one without padding."""
    config = encoder.model.config
    exits, patience = config.exit_thresholds(), config.exit_patience
    embeddings, layers, tied = [], [], []
    for text in tqdm(texts, desc=progress, unit="text", disable=progress is None):
        with torch.inference_mode():
            output = encoder.model(**encoder.batch([text]), output_hidden_states=True)
            exit_layer = int(output.exit_layer)
            pooled = [state.double().mean(dim=1)[0].cpu().numpy() for state in output.hidden_states]
        embeddings.append(output.sentence_embedding[0].cpu().numpy())
        layers.append(exit_layer)
        tested = ((number, theta) for number, theta in exits.items() if number <= exit_layer)
        tied.append(
            any(
                abs(row_cosines(pooled[number], pooled[number - patience]) - theta) < TIE_BAND
                for number, theta in tested
            )
        )
    return Reference(Encoding(np.stack(embeddings), np.array(layers)), np.array(tied))


def in_company(encoder: Encoder, texts: Sequence[str], batch_size: int, progress: str | None) -> Encoding:
    """Encode in batches of randomly drawn texts of similar lengths."""
    order = np.argsort([len(text) for text in texts], kind="stable")
    random = np.random.default_rng(SEED)
    for start in range(0, len(order), WINDOW):
        random.shuffle(order[start : start + WINDOW])
    embeddings = np.empty((len(texts), encoder.model.config.hidden_size), dtype=np.float32)
    layers = np.empty(len(texts), dtype=np.int64)
    with tqdm(total=len(texts), desc=progress, unit="text", disable=progress is None) as bar:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            found = encode(encoder, [texts[row] for row in rows], batch_size=batch_size)
            embeddings[rows], layers[rows] = found.embeddings, found.exit_layers
            bar.update(len(rows))
    return Encoding(embeddings, layers)


def compare(reference: Reference, found: Encoding) -> dict[str, Any]:
    """Count the texts of a path that differ from the reference; those in the tie band separately."""
    expected = reference.encoding
    moved = found.exit_layers != expected.exit_layers
    difference = np.abs(found.embeddings - expected.embeddings).max(axis=1)
    other = ~moved & ~(difference <= TOLERANCE)  # so that NaN is counted
    return {
        "other_exit_layer": int((moved & ~reference.tied).sum()),
        "other_embedding": int(other.sum()),
        "other_exit_layer_in_tie_band": int((moved & reference.tied).sum()),
        "largest_difference": float(difference[~moved].max(initial=0.0)),
        "mean_exit_layer": float(found.exit_layers.mean()),
    }


def spread(reference: Reference, found: Encoding) -> dict[str, Any]:
    """How far a path with other weights is: cosines to the reference, and exit layers later or earlier."""
    expected = reference.encoding
    cosines = row_cosines(found.embeddings.astype(float), expected.embeddings.astype(float))
    later = found.exit_layers - expected.exit_layers
    low, *quantiles = np.quantile(cosines, QUANTILES)
    steps, counts = np.unique(later, return_counts=True)
    return {
        "cosine_mean": float(cosines.mean()),
        "cosine_lowest": float(low),
        "cosine_quantiles": {
            f"{share:g}": float(value) for share, value in zip(QUANTILES[1:], quantiles, strict=True)
        },
        "layers_later": {str(step): int(count) for step, count in zip(steps, counts, strict=True)},
        "mean_exit_layer": float(found.exit_layers.mean()),
    }


def load_texts(sources: Sequence[str], count: int) -> Texts:
    """The first texts of several files, the same number from each.

    Args:
        sources: txt, json, jsonl or parquet files (column `text`), also with .gz after it, or globs of them;
            none: the files in the folder train/ of LEAP_DATA.
        count: how many in all.

    Raises:
        UsageError: there are no such files, or too few texts in them.
    """
    if not sources:
        folder = Path(os.environ.get("LEAP_DATA") or "")
        sources = sorted(str(path) for path in (folder / "train").glob("*.jsonl.gz"))
        if not sources:
            raise UsageError("--data: give text files, or set LEAP_DATA to a folder with train/*.jsonl.gz")
    share = -(-count // len(sources))
    texts: list[str] = []
    for source in sources:
        texts += [text for chunk in iterate_texts(TextSource(source, limit=share)) for text in chunk]
    if len(texts) < count:
        raise UsageError(f"--data: holds {len(texts)} texts of {count}: give more, or lower --texts")
    names = "+".join(Path(source).name for source in sources)
    return Texts(names, checksum(texts[:count]), texts[:count])


def _onnx(precision: str) -> Callable[["Options", Encoder], Way]:
    def way(options: "Options", _encoder: Encoder) -> Way:
        found = load_runtime(options.model, precision)
        return Way(lambda texts: found(texts, {}, options.batch_size), exact=precision == "float32")

    return way


# Each raises a UsageError where a file or a package that it needs is missing.
PATHS: dict[str, Callable[["Options", Encoder], Way]] = {
    "batches": lambda options, encoder: Way(
        lambda texts: in_company(encoder, texts, options.batch_size, "batches")
    ),
    "onnx": _onnx("float32"),
    "onnx-int8": _onnx("int8"),
}


def measure(encoder: Encoder, texts: Sequence[str], ways: Mapping[str, Way]) -> dict[str, Any]:
    """The figures of one text at a time, and under `paths` those of each way compared with it.

    Args:
        encoder: the model.
        texts: N texts.
        ways: by name.
    """
    reference = one_at_a_time(encoder, texts, "reference")
    paths = {}
    for name, way in ways.items():
        since = time.perf_counter()
        found = way.encode(texts)
        seconds = round(time.perf_counter() - since, 1)
        counts = (compare if way.exact else spread)(reference, found)
        paths[name] = counts | {"exact": way.exact, "seconds": seconds}
    layers = reference.encoding.exit_layers
    theta, first, patience = encoder.exit_rule()
    return {
        "exit_threshold": theta,
        "min_exit_layer": first,
        "exit_patience": patience,
        "in_tie_band": int(reference.tied.sum()),
        "mean_exit_layer": float(layers.mean()),
        "exit_histogram": np.bincount(layers, minlength=encoder.depth + 1)[1:].tolist(),
        "paths": paths,
    }


@dataclass(kw_only=True)
class Options(Batched, OfModel):
    """Options of this evaluation."""

    batch_size: int = option("texts per forward pass", 32)
    data: list[str] = option("text files or globs; otherwise train/ of LEAP_DATA", [])
    texts: int = option("how many", 20_000)
    paths: list[str] = option(f"of {', '.join(PATHS)}; those that cannot run are named", list(PATHS))

    def __post_init__(self) -> None:
        """See `eval.frame.Options`."""
        super().__post_init__()
        check_at_least(self, 1, "texts")
        unknown = [name for name in self.paths if name not in PATHS]
        if unknown:
            raise UsageError(f"--paths: {unknown[0]!r} is not one of {', '.join(PATHS)}")


def run(options: Options) -> Report:
    """Run it as the command does.

    Raises:
        UsageError: of an argument, or none of the paths can run here.
    """
    data = load_texts(options.data, options.texts)
    encoder = options.encoder()
    found: dict[str, Way] = {}
    missing: dict[str, str] = {}
    for name in options.paths:  # all of them before the work: what is missing is known at once
        try:
            found[name] = PATHS[name](options, encoder)
        except UsageError as error:
            missing[name] = str(error)
    if not found:
        raise UsageError(f"--paths: none of them can run here: {'; '.join(missing.values())}")

    figures = {
        "texts": len(data.texts),
        "batch_size": options.batch_size,
        "tie_band": TIE_BAND,
        "tolerance": TOLERANCE,
        **measure(encoder, data.texts, found),
        "left_out": missing,
    }
    return Report(figures=figures, summary=_summary(figures), models={"model": encoder}, data=data, seed=SEED)


def _summary(figures: dict[str, Any]) -> str:
    lines = [
        f"{figures['texts']:,} texts, torch one at a time, theta {theta_text(figures['exit_threshold'])}: "
        f"mean exit layer {figures['mean_exit_layer']:.2f}, {figures['in_tie_band']} within {TIE_BAND:g} of "
        "a threshold"
    ]
    lines += [f"  {name}: {_path_text(path)}" for name, path in figures["paths"].items()]
    lines += [f"  {name}: left out, {why}" for name, why in figures["left_out"].items()]
    return "\n".join(lines)


def _path_text(path: dict[str, Any]) -> str:
    if path["exact"]:
        words = (
            f"other exit layer {path['other_exit_layer']}, other embedding {path['other_embedding']}, "
            f"other exit layer within the tie band {path['other_exit_layer_in_tie_band']}; "
            f"largest difference {path['largest_difference']:.1e}"
        )
    else:
        words = (
            f"cosine mean {path['cosine_mean']:.4f}, lowest {path['cosine_lowest']:.4f}; "
            f"texts by layers later {path['layers_later']}"
        )
    return f"{words}; {path['seconds']:.0f} s"
