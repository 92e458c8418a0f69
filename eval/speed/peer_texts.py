"""The texts that libraries are compared on: sentences as they are, and passages cut to a length."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np

from eval.speed.latency import NEAR, choose_texts
from leap.encode.encoder import Encoder
from leap.errors import UsageError


@dataclass(frozen=True)
class Kind:
    """Texts of similar length, in the order in which they are timed.

    Attributes:
        name: "sentences", or "passages of 64".
        texts: different ones.
        tokens: (N,) of each, the two special ones included.
        joined: whether they were joined of several, for want of long ones.
    """

    name: str
    texts: list[str] = field(repr=False)
    tokens: list[int] = field(repr=False)
    joined: bool = False

    def facts(self) -> dict[str, str | int | float | bool]:
        """Figures of the texts for a result."""
        return {
            "name": self.name,
            "different": len(self.texts),
            "mean_tokens": float(np.mean(self.tokens)),
            "least_tokens": min(self.tokens),
            "most_tokens": max(self.tokens),
            "joined": self.joined,
        }

    def batches(self, number: int, count: int, size: int) -> list[list[str]]:
        """The `count` batches of round `number`, from 0; after the last text it starts over."""
        start = number * count * size
        chosen = [self.texts[row % len(self.texts)] for row in range(start, start + count * size)]
        return [chosen[row : row + size] for row in range(0, len(chosen), size)]


def sentences(encoder: Encoder, texts: Sequence[str], seed: int) -> Kind:
    """All distinct texts, shuffled."""
    return _kind(encoder, "sentences", list(dict.fromkeys(texts)), seed)


def passages(encoder: Encoder, texts: Sequence[str], length: int, seed: int, at_least: int) -> Kind:
    """Passages of `length` tokens or slightly fewer, as words stay whole; shuffled.

    Args:
        encoder: whose tokenizer counts.
        texts: to choose from: those of so many tokens or more, joined ones where these are too few.
        length: tokens, the two special ones included.
        seed: of the order.
        at_least: passages without which it cannot be done.

    Raises:
        UsageError: `length` is more than the model takes, or there are too few passages.
    """
    if length > encoder.max_length:
        raise UsageError(f"--lengths must be at most {encoder.max_length} for this model, got {length}")
    # `choose_texts` accepts texts of NEAR of a length; here all have the full length.
    found, joined = choose_texts(encoder, texts, ceil(length / NEAR), at_least=at_least, wanted=at_least)
    cut = [cut_to(encoder, text, length) for text in found]
    return _kind(encoder, f"passages of {length}", list(dict.fromkeys(cut)), seed, joined)


def cut_to(encoder: Encoder, text: str, length: int) -> str:
    """The beginning of a text, in whole words, with at most `length` tokens."""
    found = encoder.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    end = length - 2  # not counting the special ones
    if len(found["input_ids"]) <= end:
        return text
    words = found.word_ids()
    while end > 1 and words[end] == words[end - 1]:
        end -= 1
    return text[: found["offset_mapping"][end - 1][1]]


def _kind(encoder: Encoder, name: str, texts: list[str], seed: int, joined: bool = False) -> Kind:
    order = np.random.default_rng(seed).permutation(len(texts))
    texts = [texts[row] for row in order]
    counts = [min(len(ids), encoder.max_length) for ids in encoder.tokenizer(texts)["input_ids"]]
    return Kind(name, texts, counts, joined)
