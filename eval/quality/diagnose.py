"""Would your texts leave early, would it pay off, and how far would it move them?

python -m eval diagnose --model . --data my_texts.txt
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from configuration_leap import ExitThreshold
from eval.frame import Batched, OfModel
from eval.report import Report
from eval.speed.timing import in_turns
from leap.arguments import check_at_least, option, threshold
from leap.encode.encoder import Encoder, encode
from leap.encode.exits import theta_text
from leap.encode.metrics import distances, error_statistics
from leap.encode.paths import encode_paths
from leap.errors import UsageError
from leap.text.samples import load_texts_or_pairs, texts_of

SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(kw_only=True)
class Options(Batched, OfModel):
    """Options of this evaluation."""

    data: str = option(
        "texts (.txt, .jsonl, .json, .parquet, also .gz), or pairs: CSV, stsb, STS12 ... or a Hub id"
    )
    split: str = option("split of a set of pairs", "test")
    max_texts: int = option("the first texts of a file", 5000)
    exit_threshold: str = option("theta to examine, or config for the model's own", "config")
    timed_texts: int = option("texts that are timed, one at a time", 32)
    rounds: int = option("number of timings of each", 5)
    seed: int = option("random seed of the texts that are timed", 0)

    def __post_init__(self) -> None:
        """See `eval.frame.Options`."""
        super().__post_init__()
        threshold(self.exit_threshold)
        check_at_least(self, 1, "max_texts", "timed_texts", "rounds")


def diagnose(
    encoder: Encoder,
    texts: list[str],
    *,
    exit_threshold: ExitThreshold | str = "config",
    timed_texts: int = 32,
    rounds: int = 5,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> dict[str, Any]:
    """What an exit rule does to N texts.

    Args:
        encoder: the model.
        texts: N texts.
        exit_threshold: theta; "config": the model's own.
        timed_texts: how many are timed, one at a time.
        rounds: how often each of them.
        seed: of their draw.
        batch_size: texts a forward pass, of all that is not timed.
        progress: show progress bars.

    Returns:
        `texts`, `exit_threshold`; `leap_share`, `layers` a text and `depth`; `thetas`: for some shares of the
        texts the highest theta at which so many leave early; `moved`: statistics of 1 - cos to the same
        model's full depth; `milliseconds`: medians of a text at `full_depth` and by the `rule`, and their
        ratio `speedup`.

    Raises:
        UsageError: no threshold, or no layer to leave at.
    """
    theta, _, _ = encoder.exit_rule(exit_threshold)
    if theta is None:
        raise UsageError("--exit_threshold: the model has none in its config: give one, such as 0.8")
    paths = encode_paths(encoder, texts, batch_size=batch_size, progress="texts" if progress else None)
    if not len(paths.layers):
        raise UsageError(f"--model: {encoder.name!r} has no layer at which texts could leave early")
    best = paths.cosines.max(axis=1)
    chosen = np.random.default_rng(seed).permutation(len(texts))[:timed_texts]
    times = []
    for row in tqdm(chosen, desc="times", unit="text", disable=not progress):
        variants = {
            name: lambda _, row=row, asked=asked: encode(encoder, [texts[row]], exit_threshold=asked)
            for name, asked in (("full_depth", None), ("rule", theta))
        }
        found, _ = in_turns(variants, rounds=rounds, warm_up=1, device=encoder.model.device)
        times.append({name: float(np.median(values)) for name, values in found.items()})
    full, rule = (float(np.mean([time[name] for time in times])) for name in ("full_depth", "rule"))
    return {
        "texts": len(texts),
        "exit_threshold": theta,
        "leap_share": float((paths.taken(theta) < len(paths.layers)).mean()),
        "layers": float(paths.cost(theta).mean()),
        "depth": encoder.depth,
        "thetas": [{"leap_share": share, "theta": float(np.quantile(best, 1 - share))} for share in SHARES],
        "moved": error_statistics(distances(paths.at(theta), paths.full)),
        "milliseconds": {"texts": len(chosen), "full_depth": full, "rule": rule, "speedup": full / rule},
    }


def run(options: Options) -> Report:
    """Diagnose a model on the texts asked for."""
    data = load_texts_or_pairs(options.data, options.split, options.max_texts)
    encoder = options.encoder()
    names = ("timed_texts", "rounds", "seed", "batch_size")
    figures = diagnose(
        encoder,
        texts_of(data),
        exit_threshold=threshold(options.exit_threshold),
        progress=True,
        **{name: getattr(options, name) for name in names},
    )
    time, moved = figures["milliseconds"], figures["moved"]
    summary = [
        f"{data.name}: {figures['texts']} texts; theta {theta_text(figures['exit_threshold'])}",
        f"  {figures['leap_share']:.1%} leave early, {figures['layers']:.3f} of {figures['depth']} layers "
        "a text",
        f"  one text at a time: {time['rule']:.2f} ms, at full depth {time['full_depth']:.2f} ms, "
        f"{time['speedup']:.2f} times as fast",
        f"  moved against full depth (1 - cos): mean {moved['mean']:.4f}, p95 {moved['p95']:.3f}, "
        f"p99 {moved['p99']:.3f}",
        "  theta at which a share of these texts leaves: "
        + ", ".join(f"{row['leap_share']:.0%}: {row['theta']:.3f}" for row in figures["thetas"]),
    ]
    return Report(figures, "\n".join(summary), {"model": encoder}, data, options.seed)
