"""Time of a batch at full depth and with exits, by batch size and length; actual and possible speedup.

    python -m eval latency --model . --batch_sizes 1,8,32 --lengths 16,64 --output results/latency.json

Exits come in both forms: rows that leave alone, as `LeapModel` has it, and the batch leaving together when
its last row has converged, as in arXiv 2605.01058. Times are of the network alone, without the tokenizer.
"""

import argparse
import functools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from configuration_leap import ExitThreshold
from eval.report import Report
from eval.speed.timing import enter, in_turns, prepare, timed_inference, tokenize
from leap.arguments import (
    add_common_arguments,
    add_exit_arguments,
    add_texts_argument,
    numbers,
    positive,
)
from leap.encode.encoder import Encoder
from leap.errors import UsageError
from leap.text.samples import texts_of
from modeling_leap import LeapModel

BATCH_SIZES = (1, 8, 32, 64)
LENGTHS = (16, 64, 128)
WARM_UP = 3
# A text counts as of a length if it has at least this share of it; longer ones are cut.
NEAR = 0.8
SHORTEST = 3  # two special tokens and a word's


def evaluate_latency(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    lengths: Sequence[int] = LENGTHS,
    exit_threshold: ExitThreshold | Literal["config"] = "config",
    min_exit_layer: int | None = None,
    thetas: Sequence[float] = (),
    rounds: int = 100,
    progress: bool = False,
) -> dict[str, Any]:
    """Milliseconds of a batch, for each batch size and length, all variants interleaved on the same texts.

    Args:
        encoder: the model.
        texts: to choose from, see `choose_texts`.
        batch_sizes: numbers of texts a batch.
        lengths: tokens of a text, approximately, the special ones included.
        exit_threshold: theta, or one a layer; "config": the model's own.
        min_exit_layer: l_min; None: the model's own.
        thetas: further thresholds, from the same l_min on, timed at the smallest batch of each length.
        rounds: timed batches of each variant, each of other texts as far as there are any.
        progress: show a progress bar.

    Returns:
        `threads`, `device`, `dtype`, the rule, `rounds`, and `rows`, one for each batch size and length:

        `batch_size`, `tokens` as asked for, `mean_tokens` as they are, `texts` different ones timed, and
        whether they are `joined` of several for want of long ones; `mean_exit_layer`, and that of a batch
        leaving together, `mean_exit_layer_together`; of `full_depth`, `exits` and `exits_together` the
        `p50_ms`, `p95_ms` and `p99_ms` of a batch; `exit_test_ms`, what the exit rule's tests add to a batch
        when nothing leaves: the median, over rounds, of the time with a threshold of 1, which no layer's work
        reaches, less that without one (noise may make it negative); `speedup` and `speedup_together`, full
        depth's p50 over that with exits; `speedup_possible`, layers over `mean_exit_layer`, as if the layers
        were all there is; `share_of_possible`, `speedup` over it.

        And `thresholds`: for each length and each of `thetas` its `exit_threshold`, `batch_size`, `tokens`,
        `mean_exit_layer`, `p50_ms` and `speedup`.

    Raises:
        UsageError: a rule out of range or without exits, or lengths and sizes without texts.
    """
    theta, first_layer, patience = encoder.exit_rule(exit_threshold, min_exit_layer)
    tested = _thetas_tested(theta, first_layer, encoder.depth)
    others = {}
    for other in thetas:
        encoder.exit_rule(other, min_exit_layer)  # rejects a wrong rule before the work
        others[other] = _thetas_tested(other, first_layer, encoder.depth)
    if not tested:
        raise UsageError(
            f"--exit_threshold: {theta} from layer {first_layer} on lets nothing leave before the last: "
            "give one, or a lower --min_exit_layer"
        )
    for size in batch_sizes:
        if size < 1:
            raise UsageError(f"--batch_sizes must be at least 1, got {size}")
    for length in lengths:
        if not SHORTEST <= length <= encoder.max_length:
            raise UsageError(
                f"--lengths must be in [{SHORTEST}, {encoder.max_length}] for this model, got {length}"
            )
    chosen = {
        length: choose_texts(encoder, texts, length, at_least=max(batch_sizes), wanted=rounds)
        for length in lengths
    }
    rows, thresholds = [], []
    with tqdm(
        total=len(lengths) * len(batch_sizes) * rounds, desc="latency", unit="round", disable=not progress
    ) as bar:
        for length, (pool, joined) in chosen.items():
            for size in batch_sizes:
                bar.set_postfix_str(f"{size} x {length} tokens")
                also = others if size == min(batch_sizes) else {}
                row, found = _measure(encoder, pool, length, size, tested, also, rounds, bar)
                rows.append({"batch_size": size, "tokens": length, "joined": joined, **row})
                thresholds += [{"batch_size": size, "tokens": length, **point} for point in found]
    model = encoder.model
    return {
        "threads": torch.get_num_threads(),
        "device": model.device.type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "layers": encoder.depth,
        "exit_threshold": theta,
        "min_exit_layer": first_layer,
        "exit_patience": patience,
        "rounds": rounds,
        "rows": rows,
        "thresholds": thresholds,
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
    counts = [
        len(ids) - 2 for ids in encoder.tokenizer(list(texts))["input_ids"]
    ]  # not counting the special ones
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


def _thetas_tested(theta: ExitThreshold, first_layer: int, depth: int) -> dict[int, float]:
    """The threshold of each layer at which rows may leave before the last, as the model reads a rule."""
    by_layer = theta if isinstance(theta, list) else [theta] * depth
    return {
        layer: by_layer[layer - 1] for layer in range(first_layer, depth) if by_layer[layer - 1] is not None
    }


def _measure(
    encoder: Encoder,
    pool: list[str],
    length: int,
    batch_size: int,
    thetas: dict[int, float],
    others: dict[float, dict[int, float]],
    rounds: int,
    bar: tqdm,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The figures of one row, and of further thresholds `others`, interleaved with it.

    `pool` holds the texts of that length; `thetas`, and what each of `others` stands for, is as of
    `leave_together`.
    """
    model = encoder.model
    lowest = model.config.exit_patience + 1  # l_min is in `thetas`
    rows = [
        np.arange(start, start + batch_size) % len(pool)
        for start in range(0, rounds * batch_size, batch_size)
    ]
    batches = [tokenize(encoder, [pool[row] for row in batch], length) for batch in rows]

    def run(number: int, thetas: dict[int, float]) -> Tensor:
        by_layer = [thetas.get(layer) for layer in range(1, encoder.depth + 1)]
        return model(**batches[number], exit_threshold=by_layer, min_exit_layer=lowest).exit_layer

    variants = {
        "full_depth": lambda number: run(number, {}),
        "exits": lambda number: run(number, thetas),
        "exits_together": lambda number: leave_together(model, batches[number], thetas)[1],
        "watched": lambda number: run(number, dict.fromkeys(thetas, 1.0)),
        **{other: functools.partial(run, thetas=by_layer) for other, by_layer in others.items()},
    }
    with timed_inference(model):
        times, left = in_turns(variants, rounds=rounds, warm_up=WARM_UP, device=model.device, bar=bar)
    mean_layers = {
        name: float(torch.cat(left[name]).double().mean()) for name in ("exits", "exits_together", *others)
    }
    p50 = {name: np.median(values) for name, values in times.items()}
    speedups = {name: float(p50["full_depth"] / p50[name]) for name in mean_layers}
    possible = encoder.depth / mean_layers["exits"]
    row = {
        "mean_tokens": float(np.mean([int(batch["attention_mask"].sum()) / batch_size for batch in batches])),
        "texts": len(np.unique(rows)),
        "mean_exit_layer": mean_layers["exits"],
        "mean_exit_layer_together": mean_layers["exits_together"],
        **{name: _percentiles(times[name]) for name in ("full_depth", "exits", "exits_together")},
        "exit_test_ms": float(np.median(times["watched"] - times["full_depth"])),
        "speedup": speedups["exits"],
        "speedup_together": speedups["exits_together"],
        "speedup_possible": possible,
        "share_of_possible": speedups["exits"] / possible,
    }
    return row, [
        {
            "exit_threshold": other,
            "mean_exit_layer": mean_layers[other],
            "p50_ms": float(p50[other]),
            "speedup": speedups[other],
        }
        for other in others
    ]


def _percentiles(milliseconds: np.ndarray) -> dict[str, float]:
    return {f"p{share}_ms": float(np.percentile(milliseconds, share)) for share in (50, 95, 99)}


def leave_together(
    model: LeapModel, batch: dict[str, Tensor], thetas: dict[int, float]
) -> tuple[Tensor, Tensor]:
    """Encode a batch as the paper does: all rows leave at the layer where the last of them has converged.

    A row has converged from the first layer l on that it would leave at alone, cos(p_l, p_(l-k)) >= theta.

    Args:
        model: the network, in eval mode.
        batch: `input_ids`, `attention_mask` and perhaps `token_type_ids`, (B, T) each.
        thetas: the threshold of each layer, counted from 1, that lets rows leave; not empty.

    Returns:
        (B, H) embeddings, and (B,) the layer that all left at, from 1.
    """
    rows = enter(model, batch)
    first_pooled = min(thetas) - rows.patience
    converged = torch.zeros(len(batch["input_ids"]), dtype=torch.bool, device=model.device)
    for number, layer in enumerate(model.encoder.layer, start=1):
        rows.run(layer)
        if number < first_pooled:
            continue
        rows.pool()
        if number in thetas:
            now, before = rows.pooled[-1], rows.pooled[0]
            # As the model does; torch's cosine_similarity rounds differently.
            cosine = (now * before).sum(dim=-1) / (now.norm(dim=-1) * before.norm(dim=-1))
            converged |= cosine >= thetas[number]
            if bool(converged.all()):
                break
    _, embeddings, left = rows.gather(number)
    return embeddings, left


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this evaluation."""
    add_common_arguments(parser, batch_size=False)
    add_exit_arguments(parser)
    add_texts_argument(parser, default="stsb")
    parser.add_argument(
        "--texts", type=positive, default=20_000, help="the first of a file of texts (default: %(default)s)"
    )
    for name, default, what in (
        ("--batch_sizes", BATCH_SIZES, "texts a batch"),
        ("--lengths", LENGTHS, "tokens a text, about"),
    ):
        shown = ",".join(map(str, default))
        parser.add_argument(name, type=numbers(int), default=default, help=f"{what} (default: {shown})")
    parser.add_argument(
        "--rounds", type=positive, default=100, help="timed batches of each kind (default: %(default)s)"
    )
    parser.add_argument(
        "--thetas", type=numbers(float), default=(), help="further thresholds at the smallest batch: 0.9,0.95"
    )
    parser.add_argument("--threads", type=positive, help="of the CPU (default: torch's choice)")


def run(args: argparse.Namespace) -> Report:
    """Run it as the command does."""
    encoder, data = prepare(args)
    figures = evaluate_latency(
        encoder,
        texts_of(data),
        batch_sizes=args.batch_sizes,
        lengths=args.lengths,
        exit_threshold=args.exit_threshold,
        min_exit_layer=args.min_exit_layer,
        thetas=args.thetas,
        rounds=args.rounds,
        progress=True,
    )
    return Report(figures, _summary(figures), {"model": encoder}, data)


def _summary(figures: dict[str, Any]) -> str:
    lines = [
        f"{figures['device']}, {figures['threads']} threads, {figures['dtype']}; theta "
        f"{figures['exit_threshold']}, l_min {figures['min_exit_layer']}; p50 / p95 / p99 ms of a batch",
        f"  {'batch x tokens':<15}{'full depth':>23}{'exits':>23}{'leaving together':>23}"
        f"{'test':>8}{'layer':>7}{'speedup':>9}{'together':>9}{'possible':>9}{'share':>7}",
    ]
    for row in figures["rows"]:
        times = "".join(
            f"{' / '.join(f'{value:.2f}' for value in row[name].values()):>23}"
            for name in ("full_depth", "exits", "exits_together")
        )
        size = f"{row['batch_size']} x {row['tokens']}{'*' if row['joined'] else ''}"
        lines.append(
            f"  {size:<15}{times}{row['exit_test_ms']:>8.2f}{row['mean_exit_layer']:>7.2f}"
            f"{row['speedup']:>9.2f}{row['speedup_together']:>9.2f}{row['speedup_possible']:>9.2f}"
            f"{row['share_of_possible']:>7.0%}"
        )
    for point in figures["thresholds"]:
        lines.append(
            f"  {point['batch_size']} x {point['tokens']}, theta {point['exit_threshold']:g}: p50 "
            f"{point['p50_ms']:.2f} ms, mean layer {point['mean_exit_layer']:.2f}, "
            f"speedup {point['speedup']:.2f}"
        )
    if any(row["joined"] for row in figures["rows"]):
        lines.append("  * texts joined of several, as too few were that long")
    return "\n".join(lines)
