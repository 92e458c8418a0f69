"""Time per batch at full depth and with exits, by batch size and length; achieved and possible speedup.

    python -m eval latency --model . --batch_sizes 1 8 32 --lengths 16 64 --output results/latency.json

Times are of the network alone, without the tokenizer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from configuration_leap import ExitThreshold
from eval.frame import OfModel
from eval.report import Report
from eval.speed.timing import in_turns
from leap.arguments import check_at_least, option, threshold
from leap.encode.encoder import Encoder
from leap.encode.exits import theta_text
from leap.errors import UsageError
from leap.text.samples import load_texts_or_pairs, texts_of

BATCH_SIZES = (1, 8, 32, 64)
LENGTHS = (16, 64, 128)
WARM_UP = 3
# A text counts as of a length from this share of it on; longer ones are cut to it.
NEAR = 0.8
SHORTEST = 3  # two special tokens and a word's


@dataclass(kw_only=True)
class Options(OfModel):
    """Options of this evaluation."""

    data: str = option("texts (.txt, .jsonl ...), or pairs: CSV, stsb, STS12 ... or a Hub id", "stsb")
    split: str = option("split of a set of pairs", "test")
    texts: int = option("the first texts of a file", 20_000)
    exit_threshold: str = option("theta, or config for the model's own", "config")
    threads: int | None = option("CPU threads; none: torch's choice", None)
    batch_sizes: list[int] = option("texts per batch", list(BATCH_SIZES))
    lengths: list[int] = option("approximate tokens per text", list(LENGTHS))
    rounds: int = option("timed batches of each kind", 100)

    def __post_init__(self) -> None:
        """See `eval.frame.Options`."""
        super().__post_init__()
        threshold(self.exit_threshold)
        check_at_least(self, 1, "batch_sizes", "rounds", "texts", "threads")


def evaluate_latency(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    lengths: Sequence[int] = LENGTHS,
    exit_threshold: ExitThreshold | str = "config",
    rounds: int = 100,
    progress: bool = False,
) -> dict[str, Any]:
    """Milliseconds per batch for each batch size and length, all variants interleaved on the same texts.

    Args:
        encoder: the model.
        texts: to choose from, see `choose_texts`.
        batch_sizes: numbers of texts a batch.
        lengths: about how many tokens a text is to have, the special ones included.
        exit_threshold: theta, or one a layer; "config": the model's own.
        rounds: timed batches of each variant, each of other texts as far as there are any.
        progress: show a progress bar.

    Returns:
        `threads`, `device`, `dtype`, `layers`, the rule, `rounds`, and `rows`, one for each batch size and
        length:

        `batch_size`, `tokens` as asked for, `mean_tokens` as they are, `texts` different ones timed, and
        whether they are `joined` of several for want of long ones; `mean_layers_run` by the rule; of
        `full_depth`, `exits` and `all_leave`, with a threshold of -1, the `p50_ms`, `p95_ms` and `p99_ms` of
        a batch; `exit_test_ms`, what the exit rule's tests add to a batch when nothing leaves: the median,
        over rounds, of the time with a threshold that no text reaches, less that without one (noise may make
        it negative); `speedup` and `speedup_all_leave`, full depth's p50 over theirs; `speedup_possible`,
        layers over `mean_layers_run`, as if the layers were all there is; `share_of_possible`, `speedup` over
        it.

    Raises:
        UsageError: a rule out of its range or by which nothing leaves, lengths or sizes that cannot be had.
    """
    in_force = encoder.rule_in_force(exit_threshold)
    theta = in_force["exit_threshold"]
    if not encoder.model.config.exit_thresholds(theta):
        raise UsageError(
            f"--exit_threshold: {theta_text(theta)} lets no text leave early: give one, such as 0.8"
        )
    for length in lengths:
        if not SHORTEST <= length <= encoder.max_length:
            raise UsageError(
                f"--lengths: must be in [{SHORTEST}, {encoder.max_length}] for this model, got {length}"
            )
    chosen = {
        length: choose_texts(encoder, texts, length, at_least=max(batch_sizes), wanted=rounds)
        for length in lengths
    }
    rows = []
    total = len(lengths) * len(batch_sizes) * rounds
    with tqdm(total=total, desc="latency", unit="round", disable=not progress) as bar:
        for length, (pool, joined) in chosen.items():
            for size in batch_sizes:
                bar.set_postfix_str(f"{size} x {length} tokens")
                row = _measure(encoder, pool, length, size, theta, rounds, bar)
                rows.append({"batch_size": size, "tokens": length, "joined": joined, **row})
    model = encoder.model
    return {
        "threads": torch.get_num_threads(),
        "device": model.device.type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "layers": encoder.depth,
        **in_force,
        "rounds": rounds,
        "rows": rows,
    }


def choose_texts(
    encoder: Encoder, texts: Sequence[str], length: int, *, at_least: int, wanted: int
) -> tuple[list[str], bool]:
    """Texts of about `length` tokens: those that have `NEAR` of it or more, which the tokenizer will cut.

    Where they are fewer than `at_least` or `wanted`, texts that follow each other are joined until they are
    long enough, and these are taken.

    Args:
        encoder: whose tokenizer counts.
        texts: to choose from.
        length: tokens, the special ones included.
        at_least: texts without which it cannot be done.
        wanted: texts without which joining is better.

    Returns:
        The texts, and whether they are joined ones.

    Raises:
        UsageError: even joined, they are fewer than `at_least`.
    """
    counts = [len(ids) - 2 for ids in encoder.tokenizer(list(texts))["input_ids"]]  # the special ones apart
    enough = NEAR * length - 2
    long = [text for text, count in zip(texts, counts, strict=True) if count >= enough]
    if len(long) >= max(at_least, wanted):
        return long, False
    joined: list[str] = []
    parts: list[str] = []
    tokens = 0
    for text, count in zip(texts, counts, strict=True):
        parts.append(text)
        tokens += count
        if tokens >= enough:
            joined.append(" ".join(parts))
            parts, tokens = [], 0
    if len(joined) < at_least:
        raise UsageError(
            f"--data: makes {len(joined)} texts of {length} tokens, a batch takes {at_least}: "
            "give more texts, or smaller --batch_sizes or --lengths"
        )
    return joined, True


def _measure(
    encoder: Encoder,
    pool: list[str],
    length: int,
    batch_size: int,
    theta: ExitThreshold,
    rounds: int,
    bar: tqdm,
) -> dict[str, Any]:
    """The figures of one row; `pool` holds the texts of that length."""
    model = encoder.model
    rows = [
        np.arange(start, start + batch_size) % len(pool)
        for start in range(0, rounds * batch_size, batch_size)
    ]
    batches = [encoder.batch([pool[row] for row in batch], length) for batch in rows]

    def run(number: int, theta: ExitThreshold) -> Tensor:
        return model(**batches[number], exit_threshold=theta).layers_run

    variants = {
        "full_depth": lambda number: run(number, None),
        "exits": lambda number: run(number, theta),
        "all_leave": lambda number: run(number, -1.0),
        "watched": lambda number: run(number, _out_of_reach(encoder, theta)),
    }
    with torch.inference_mode():
        times, cost = in_turns(variants, rounds=rounds, warm_up=WARM_UP, device=model.device, bar=bar)
    mean_layers_run = float(torch.cat(cost["exits"]).double().mean())
    p50 = {name: float(np.median(values)) for name, values in times.items()}
    speedup, possible = p50["full_depth"] / p50["exits"], encoder.depth / mean_layers_run
    return {
        "mean_tokens": float(np.mean([int(batch["attention_mask"].sum()) / batch_size for batch in batches])),
        "texts": len(np.unique(rows)),
        "mean_layers_run": mean_layers_run,
        **{
            name: {f"p{share}_ms": float(np.percentile(times[name], share)) for share in (50, 95, 99)}
            for name in ("full_depth", "exits", "all_leave")
        },
        "exit_test_ms": float(np.median(times["watched"] - times["full_depth"])),
        "speedup": speedup,
        "speedup_all_leave": p50["full_depth"] / p50["all_leave"],
        "speedup_possible": possible,
        "share_of_possible": speedup / possible,
    }


def _out_of_reach(encoder: Encoder, theta: ExitThreshold) -> list[float | None]:
    """A threshold of 1, which no text reaches, wherever the rule has one."""
    tested = encoder.model.config.exit_thresholds(theta)
    return [1.0 if layer in tested else None for layer in range(1, encoder.depth + 1)]


def run(options: Options) -> Report:
    """Time the model on the texts asked for."""
    data = load_texts_or_pairs(options.data, options.split, options.texts)
    if options.threads:
        torch.set_num_threads(options.threads)
    encoder = options.encoder()
    figures = evaluate_latency(
        encoder,
        texts_of(data),
        batch_sizes=options.batch_sizes,
        lengths=options.lengths,
        exit_threshold=threshold(options.exit_threshold),
        rounds=options.rounds,
        progress=True,
    )
    return Report(figures, _summary(figures), {"model": encoder}, data)


def _summary(figures: dict[str, Any]) -> str:
    lines = [
        f"{figures['device']}, {figures['threads']} threads, {figures['dtype']}; theta "
        f"{theta_text(figures['exit_threshold'])}; p50 / p95 / p99 ms of a batch",
        f"  {'batch x tokens':<15}{'full depth':>23}{'exits':>23}{'all leave':>23}"
        f"{'test':>8}{'layers':>8}{'speedup':>9}{'possible':>9}{'share':>7}",
    ]
    for row in figures["rows"]:
        times = "".join(
            f"{' / '.join(f'{value:.2f}' for value in row[name].values()):>23}"
            for name in ("full_depth", "exits", "all_leave")
        )
        size = f"{row['batch_size']} x {row['tokens']}{'*' if row['joined'] else ''}"
        lines.append(
            f"  {size:<15}{times}{row['exit_test_ms']:>8.2f}{row['mean_layers_run']:>8.2f}"
            f"{row['speedup']:>9.2f}{row['speedup_possible']:>9.2f}{row['share_of_possible']:>7.0%}"
        )
    if any(row["joined"] for row in figures["rows"]):
        lines.append("  * texts joined of several, as too few were that long")
    return "\n".join(lines)
