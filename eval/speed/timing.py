"""Shared by all timings: clocks that wait for the device, interleaving, the model's loop step by step."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from eval.frame import OfModel
from leap.arguments import check_at_least, option, threshold
from leap.encode.encoder import Encoder
from leap.encode.exits import FloatArray
from leap.text.samples import Texts, load_texts_or_pairs
from leap.text.sets import StsData

# The model's own steps: with copies of them something else would be timed than what its users run.
from modeling_leap import LeapModel, _Batch, _pooling_weights

Result = TypeVar("Result")


@dataclass(kw_only=True)
class OfTimedTexts(OfModel):
    """Options of an evaluation that times a model on texts, by an exit rule."""

    data: str = option("texts (.txt, .jsonl ...), or pairs: CSV, stsb, STS12 ... or a Hub id", "stsb")
    split: str = option("split of a set of pairs", "test")
    texts: int = option("the first texts of a file", 20_000)
    exit_threshold: str = option("theta, or config for the model's own", "config")
    threads: int | None = option("CPU threads; none: torch's choice", None)

    def __post_init__(self) -> None:
        """See `eval.frame.Options`."""
        super().__post_init__()
        threshold(self.exit_threshold)
        check_at_least(self, 1, "texts", "threads")

    def prepare(self) -> tuple[Encoder, StsData | Texts]:
        """The model and the texts, with the threads asked for.

        Raises:
            UsageError: as `load_texts_or_pairs` and `load_encoder`.
        """
        data = load_texts_or_pairs(self.data, self.split, self.texts)
        if self.threads:
            torch.set_num_threads(self.threads)
        return self.encoder(), data


@contextmanager
def timed_inference(model: LeapModel) -> Iterator[None]:
    """Inference mode, and `eval()` for as long as it lasts."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def clock(device: torch.device) -> float:
    """The time in milliseconds, after all work queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() * 1000


def in_turns(
    variants: Mapping[str, Callable[[int], Result]],
    *,
    rounds: int,
    warm_up: int,
    device: torch.device,
    bar: tqdm | None = None,
    seconds: float = math.inf,
    at_least: int = 1,
) -> tuple[dict[str, FloatArray], dict[str, list[Result]]]:
    """Time variants of the same work A B A B, so that changes in machine speed affect all of them.

    Args:
        variants: by name; each is called with the number of the round, from 0.
        rounds: timed calls of each, at most.
        warm_up: calls of each before, which are not timed; with the numbers of the last rounds.
        device: what they run on.
        bar: a progress bar to move by 1 for every timed round.
        seconds: no round begins after so long, the warm-up not counted.
        at_least: rounds that are timed however long they take.

    Returns:
        For each variant the (rounds timed,) milliseconds that its calls took, and what they returned.
    """
    milliseconds: dict[str, list[float]] = {name: [] for name in variants}
    results: dict[str, list[Result]] = {name: [] for name in variants}
    begun = math.inf
    for number in range(-warm_up, rounds):
        if number == 0:
            begun = time.monotonic()
        if number >= at_least and time.monotonic() - begun > seconds:
            break
        for name, variant in variants.items():
            since = clock(device)
            result = variant(number % rounds)
            until = clock(device)
            if number >= 0:
                milliseconds[name].append(until - since)
                results[name].append(result)
        if bar is not None and number >= 0:
            bar.update(1)
    return {name: np.array(values) for name, values in milliseconds.items()}, results


def tokenize(encoder: Encoder, texts: list[str], max_length: int | None = None) -> dict[str, Tensor]:
    """The texts as a batch on the model's device, padded to the longest.

    Args:
        encoder: whose tokenizer and device.
        texts: B texts.
        max_length: tokens to cut them to, the special ones included; None: the encoder's.
    """
    batch: Any = encoder.tokenizer(
        texts,
        padding=True,
        truncation=True,
        max_length=max_length or encoder.max_length,
        return_tensors="pt",
    )
    return dict(batch.to(encoder.model.device))


def enter(model: LeapModel, batch: dict[str, Tensor]) -> _Batch:
    """The batch before the first layer, as `LeapModel.forward` builds it; its methods are the model's steps.

    Args:
        model: the network.
        batch: `input_ids`, `attention_mask` and perhaps `token_type_ids`, (B, T) each.
    """
    hidden = model.embeddings(input_ids=batch["input_ids"], token_type_ids=batch.get("token_type_ids"))
    mask = batch["attention_mask"]
    return _Batch(
        hidden,
        mask=model.layer_mask(hidden, mask.bool()),
        weights=_pooling_weights(hidden, mask),
        depth=model.config.num_hidden_layers,
        patience=model.config.exit_patience,
    )
