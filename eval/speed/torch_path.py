"""The time around the layers in torch: overhead per text, and what `torch.compile` gains.

    python -m eval torch_path --model . --output results/torch-path-cpu.json

Two questions about `LeapModel` itself, each answered by interleaved variants: how much of a single text's
time is spent outside the layers; and, with `--compile`, whether layers compiled one by one are faster.
"""

import copy
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eval.report import Report
from eval.speed.timing import OfTimedTexts, enter, in_turns, timed_inference, tokenize
from leap.arguments import check_at_least, option, threshold
from leap.encode.encoder import Encoder
from leap.errors import UsageError
from leap.text.samples import texts_of
from modeling_leap import LeapModel, _pooling_weights

WARM_UP = 3
NO_ROW = 2.0  # a threshold that no cosine reaches


class Recorded(nn.Module):
    """Stands in for a layer: returns `output`, (B, T, H), without computing anything."""

    output: Tensor

    def forward(self, _hidden: Tensor, _mask: Tensor | None) -> Tensor:
        """What the layer would have given."""
        return self.output


def without_layers(model: LeapModel) -> LeapModel:
    """A copy of the model whose layers are `Recorded`: it takes the steps of `forward` around them."""
    bare = copy.deepcopy(model)
    bare.encoder.layer = nn.ModuleList(Recorded() for _ in model.encoder.layer)
    return bare


def play(bare: LeapModel, states: Sequence[Tensor]) -> None:
    """Set the outputs of the layers of `without_layers`: `states`, one (B, T, H) per layer."""
    for layer, state in zip(bare.encoder.layer, states, strict=True):
        layer.output = state


def measure_overhead(encoder: Encoder, texts: Sequence[str], rule: dict[str, Any]) -> dict[str, Any]:
    """Time of single texts, and how much of it is outside the layers.

    Args:
        encoder: the model.
        texts: one a round.
        rule: `exit_threshold` of a call.

    Returns:
        `texts`, `mean_tokens`, `mean_layers_run`; for `exits` and `full_depth` the median milliseconds
        `forward_ms` and `outside_layers_ms`, the latter with layers that give what they gave before without
        work, and `outside_share`, the median over texts of the quotient; and `steps_ms`, the median of each
        step outside the layers, once.
    """
    model = encoder.model
    batches = [tokenize(encoder, [text]) for text in texts]
    bare = without_layers(model)
    with timed_inference(model), timed_inference(bare):
        states = [
            model(**batch, exit_threshold=None, output_hidden_states=True).hidden_states[1:]
            for batch in batches
        ]

        def outside(number: int, **call: object) -> Tensor:
            return bare(**batches[number], **call).layers_run

        variants = {
            "exits": lambda number: model(**batches[number], **rule).layers_run,
            # A variant of its own, as it is no part of a forward pass.
            "play": lambda number: play(bare, states[number]),
            "outside_exits": lambda number: outside(number, **rule),
            "full_depth": lambda number: model(**batches[number], exit_threshold=None).layers_run,
            "outside_full_depth": lambda number: outside(number, exit_threshold=None),
        }
        times, found = in_turns(variants, rounds=len(texts), warm_up=WARM_UP, device=model.device)
        steps = _steps(model, batches)
    if not all(torch.equal(a, b) for a, b in zip(found["exits"], found["outside_exits"], strict=True)):
        raise RuntimeError("the copy without layers did not leave where the model does")
    return {
        "texts": len(texts),
        "mean_tokens": float(np.mean([batch["input_ids"].shape[1] for batch in batches])),
        "mean_layers_run": float(torch.cat(found["exits"]).double().mean()),
        **{
            name: {
                "forward_ms": float(np.median(times[name])),
                "outside_layers_ms": float(np.median(times[f"outside_{name}"])),
                "outside_share": float(np.median(times[f"outside_{name}"] / times[name])),
            }
            for name in ("exits", "full_depth")
        },
        "steps_ms": steps,
    }


def _steps(model: LeapModel, batches: Sequence[dict[str, Tensor]]) -> dict[str, float]:
    """The median milliseconds of each step of `forward` that is not a layer."""
    calls = [(batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids")) for batch in batches]
    entered = [enter(model, batch) for batch in batches]
    for rows in entered:
        for _ in range(rows.patience + 1):
            rows.pool()

    variants = {
        "input checks": lambda n: model._check_inputs(calls[n][0], None, calls[n][1], calls[n][2], None),
        "embeddings": lambda n: model._embed(input_ids=calls[n][0], token_type_ids=calls[n][2]),
        "mask": lambda n: model.layer_mask(entered[n].hidden, calls[n][1].bool()),
        "pooling weights": lambda n: _pooling_weights(entered[n].hidden, calls[n][1]),
        "pooling, a layer": lambda n: entered[n].pool(),
        "exit test, a layer": lambda n: entered[n].let_leave(NO_ROW, 1),
        "joining": lambda n: entered[n].join(),
    }
    times, _ = in_turns(variants, rounds=len(batches), warm_up=WARM_UP, device=model.device)
    return {name: float(np.median(values)) for name, values in times.items()}


def measure_compiled(encoder: Encoder, texts: Sequence[str], rule: dict[str, Any]) -> dict[str, Any]:
    """Single texts with layers compiled one by one, against the model as it is.

    Args:
        encoder: the model.
        texts: one a round.
        rule: as for `measure_overhead`.

    Returns:
        `compile_seconds`, those of the first text; for `exits` and `full_depth` the `speedup`, the median
        over texts of eager time over compiled; `largest_difference` of any component of an embedding.
    """
    model = encoder.model
    batches = [tokenize(encoder, [text]) for text in texts]
    compiled = copy.deepcopy(model)
    for layer in compiled.encoder.layer:
        layer.compile(dynamic=True)  # a graph for all lengths; without it each new one compiles again
    with timed_inference(model), timed_inference(compiled):
        since = time.monotonic()
        compiled(**batches[0], exit_threshold=None)
        seconds = time.monotonic() - since
        variants = {
            "exits": lambda n: model(**batches[n], **rule).sentence_embedding,
            "compiled exits": lambda n: compiled(**batches[n], **rule).sentence_embedding,
            "full_depth": lambda n: model(**batches[n], exit_threshold=None).sentence_embedding,
            "compiled full_depth": lambda n: compiled(**batches[n], exit_threshold=None).sentence_embedding,
        }
        times, found = in_turns(variants, rounds=len(texts), warm_up=WARM_UP, device=model.device)
    pairs = zip(found["full_depth"], found["compiled full_depth"], strict=True)
    return {
        "compile_seconds": seconds,
        **{
            name: {"speedup": float(np.median(times[name] / times[f"compiled {name}"]))}
            for name in ("exits", "full_depth")
        },
        "largest_difference": max(float((eager - other).abs().max()) for eager, other in pairs),
    }


@dataclass(kw_only=True)
class Options(OfTimedTexts):
    """Options of this evaluation."""

    rounds: int = option("single texts, each timed once", 200)
    compile: bool = option("also time layers compiled one by one, a minute or more", False)

    def __post_init__(self) -> None:
        """See `eval.frame.Options`."""
        super().__post_init__()
        check_at_least(self, 1, "rounds")


def run(options: Options) -> Report:
    """Measure the model on the texts asked for."""
    encoder, data = options.prepare()
    figures = evaluate_torch_path(
        encoder,
        texts_of(data),
        rule={"exit_threshold": threshold(options.exit_threshold)},
        rounds=options.rounds,
        compiled=options.compile,
    )
    return Report(figures, _summary(figures), {"model": encoder}, data)


def evaluate_torch_path(
    encoder: Encoder,
    texts: list[str],
    *,
    rule: dict[str, Any],
    rounds: int = 200,
    compiled: bool = False,
) -> dict[str, Any]:
    """All of the above.

    Args:
        encoder: the model.
        texts: to choose from; single ones are taken evenly over them.
        rule: `exit_threshold` of a call.
        rounds: single texts that are timed, at most.
        compiled: also `measure_compiled`.

    Returns:
        `threads`, `device`, `dtype`, `layers`, the rule; `single` and `compiled` (None if not asked for) as
        the functions above give them.

    Raises:
        UsageError: a rule out of its range, or no compiler for `compiled`.
    """
    in_force = encoder.rule_in_force(**rule)
    model = encoder.model
    compiler = os.environ.get("CXX", "g++")
    if compiled and model.device.type == "cpu" and shutil.which(compiler) is None:
        raise UsageError(f"--compile: there is no C++ compiler {compiler!r}: install g++ or set CXX")
    single = texts[:: max(1, len(texts) // rounds)][:rounds]
    return {
        "threads": torch.get_num_threads(),
        "device": model.device.type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "layers": encoder.depth,
        **in_force,
        "single": measure_overhead(encoder, single, rule),
        "compiled": measure_compiled(encoder, single, rule) if compiled else None,
    }


def _summary(figures: dict[str, Any]) -> str:
    single = figures["single"]
    lines = [
        f"{figures['device']}, {figures['threads']} threads, {figures['dtype']}; theta "
        f"{figures['exit_threshold']}; medians",
        f"single texts ({single['texts']}, {single['mean_tokens']:.1f} tokens, layers run: "
        f"{single['mean_layers_run']:.2f}): forward pass, and outside the layers",
    ]
    lines += [
        f"  {title:<12}{row['forward_ms']:>8.2f} ms{row['outside_layers_ms']:>8.3f} ms"
        f"{row['outside_share']:>7.1%}"
        for title, row in (("with exits", single["exits"]), ("full depth", single["full_depth"]))
    ]
    lines += [f"    {name:<20}{value:>8.3f} ms" for name, value in single["steps_ms"].items()]
    compiled = figures["compiled"]
    if compiled:
        lines.append(
            f"layers compiled in {compiled['compile_seconds']:.0f} s: {compiled['exits']['speedup']:.2f} "
            f"times as fast with exits, {compiled['full_depth']['speedup']:.2f} at full depth; embeddings "
            f"differ by up to {compiled['largest_difference']:.1e}"
        )
    return "\n".join(lines)
