"""Calls of `eval.stress.fuzz`: valid and invalid arguments of every kind, drawn at random."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from modeling_leap import LeapModel

ROWS, TOKENS = 4, 12  # at most, where nothing else is said
LONG_TEXT = 10_000  # words
MASK_TYPES = (torch.int64, torch.bool, torch.float32, torch.float16, torch.int32, torch.uint8)
SCRIPTS = (
    "the quick brown fox", "naïve façade, Ærøskøbing", "Привет, мир", "καλημέρα κόσμε", "שלום עולם",
    "مرحبا بالعالم", "नमस्ते दुनिया", "你好世界", "こんにちは世界", "안녕하세요", "สวัสดีชาวโลก",
    "\U0001d518\U0001d52b\U0001d526",  # letters outside the basic multilingual plane
    "e\u0301\u0308\u0323 z\u0351\u036b",  # stacked combining marks
)  # fmt: skip
EMOJI = ("😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇪🇺", "👍🏽", "\ufe0f", "☃", "💯💯💯")
CONTROLS = (
    "\x00\x01\x07\x08\t\n\r\x0b\x0c\x1b\x7f\x85\xa0\xad\u200b\u200d\u202e\u2028\u2029\ufeff\ufffd\uffff"
)
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

Call = dict[str, Any]
Random = np.random.Generator


@dataclass(frozen=True)
class Subject:
    """The model under test, in eval mode on the CPU, and its tokenizer."""

    model: LeapModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int

    @property
    def longest(self) -> int:
        """The most tokens that the model accepts."""
        return self.model.config.max_position_embeddings

    @property
    def vocabulary(self) -> int:
        """The vocabulary size."""
        return self.model.config.vocab_size


Draw = Callable[[Subject, Random], Call]


def ids(subject: Subject, random: Random, rows: int | None = None, tokens: int | None = None) -> Tensor:
    """(rows, tokens) random ids."""
    rows, tokens = rows or int(random.integers(1, ROWS + 1)), tokens or int(random.integers(1, TOKENS + 1))
    return torch.from_numpy(random.integers(0, subject.vocabulary, (rows, tokens)))


def padded(subject: Subject, random: Random, left: bool = False) -> Call:
    """Rows of several lengths, padded on one side."""
    found = ids(subject, random)
    lengths = random.integers(1, found.shape[1] + 1, len(found))
    mask = torch.from_numpy((np.arange(found.shape[1]) < lengths[:, None]).astype(np.int64))
    return {"input_ids": found, "attention_mask": mask.flip(1) if left else mask}


def holes(subject: Subject, random: Random) -> Call:
    """Padding anywhere, including rows without any token."""
    found = ids(subject, random)
    return {"input_ids": found, "attention_mask": torch.from_numpy(random.integers(0, 2, tuple(found.shape)))}


def zero_rows(subject: Subject, random: Random) -> Call:
    """Rows that are all padding, sometimes all of them."""
    call = padded(subject, random)
    call["attention_mask"][random.random(len(call["input_ids"])) < 0.7] = 0
    return call


def other_mask_type(subject: Subject, random: Random) -> Call:
    """A mask of a type other than int64, or none."""
    call = padded(subject, random)
    kind = MASK_TYPES[random.integers(len(MASK_TYPES))]
    return call | {"attention_mask": call["attention_mask"].to(kind)}


def no_mask(subject: Subject, random: Random) -> Call:
    """Rows of one length."""
    return {"input_ids": ids(subject, random)}


def one_token(subject: Subject, random: Random) -> Call:
    """Rows of one token."""
    return {"input_ids": ids(subject, random, tokens=1)}


def longest(subject: Subject, random: Random) -> Call:
    """One row as long as the model can take."""
    return {"input_ids": ids(subject, random, rows=1, tokens=subject.longest)}


def int32_ids(subject: Subject, random: Random) -> Call:
    """Ids of int32."""
    call = padded(subject, random)
    return call | {"input_ids": call["input_ids"].int()}


def special_tokens(subject: Subject, random: Random) -> Call:
    """Special tokens and nothing else."""
    specials = np.array(subject.tokenizer.all_special_ids)
    return {"input_ids": torch.from_numpy(random.choice(specials, tuple(ids(subject, random).shape)))}


def types_and_positions(subject: Subject, random: Random) -> Call:
    """Token types and positions given by the caller, per row or shared."""
    call = padded(subject, random)
    shape = tuple(call["input_ids"].shape)
    shape = shape if random.random() < 0.5 else (1, shape[1])
    call["token_type_ids"] = torch.from_numpy(random.integers(0, 2, shape))
    call["position_ids"] = torch.from_numpy(random.integers(0, subject.longest, shape))
    return call


def embeds(subject: Subject, random: Random) -> Call:
    """Word embeddings instead of ids."""
    call = padded(subject, random)
    with torch.no_grad():
        call["inputs_embeds"] = subject.model.get_input_embeddings()(call.pop("input_ids"))
    return call


def _texts(draw: Callable[[Random], str]) -> Draw:
    def call(subject: Subject, random: Random) -> Call:
        texts = [draw(random) for _ in range(random.integers(1, ROWS + 1))]
        batch = subject.tokenizer(
            texts, padding=True, truncation=True, max_length=subject.max_length, return_tensors="pt"
        )
        return dict(batch)

    return call


def _joined(pieces: tuple[str, ...] | str, separator: str = " ") -> Callable[[Random], str]:
    def draw(random: Random) -> str:
        return separator.join(random.choice(list(pieces), random.integers(1, 6)))

    return draw


def _any_characters(random: Random) -> str:
    codes = random.integers(0, 0x110000, random.integers(0, 20))
    return "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)


def _long_text(random: Random) -> str:
    words = " ".join(["word", *SCRIPTS][: random.integers(1, 9)]).split()
    return " ".join((words * LONG_TEXT)[:LONG_TEXT])


# Valid calls: each draws arguments, and must agree with the oracle.
RIGHT: dict[str, Draw] = {
    "right padding": padded,
    "left padding": lambda subject, random: padded(subject, random, left=True),
    "padding anywhere": holes,
    "rows without tokens": zero_rows,
    "masks of other types": other_mask_type,
    "no mask": no_mask,
    "one token": one_token,
    "ids of int32": int32_ids,
    "special tokens only": special_tokens,
    "token types and positions": types_and_positions,
    "inputs_embeds": embeds,
    "empty and blank texts": _texts(_joined(("", " ", "\n", "\u3000"), "")),
    "emoji": _texts(_joined(EMOJI)),
    "control characters": _texts(_joined(CONTROLS, "")),
    "mixed scripts": _texts(_joined(SCRIPTS)),
    "special tokens as text": _texts(_joined(SPECIALS)),
    "any characters": _texts(_any_characters),
}
# The same, but slow.
LONG: dict[str, Draw] = {
    "as long as the model takes": longest,
    "texts of 10,000 words": _texts(_long_text),
}


def _with(**changes: Callable[[Call, Subject, Random], Any]) -> Draw:
    """A valid call with some of its arguments replaced by invalid ones."""

    def call(subject: Subject, random: Random) -> Call:
        right = padded(subject, random)
        return right | {name: change(right, subject, random) for name, change in changes.items()}

    return call


def _one_of(values: tuple[Any, ...]) -> Callable[[Call, Subject, Random], Any]:
    return lambda _call, _subject, random: values[random.integers(len(values))]


def _one_id(low: int, high: int) -> Callable[[Call, Subject, Random], Tensor]:
    """The ids with one of them `low` to `high` past the end of the vocabulary, or below 0."""

    def change(call: Call, subject: Subject, random: Random) -> Tensor:
        found = call["input_ids"].clone()
        by = int(random.integers(low, high))
        found[random.integers(len(found)), random.integers(found.shape[1])] = (
            by if by < 0 else subject.vocabulary + by
        )
        return found

    return change


def _one_value(*values: float) -> Callable[[Call, Subject, Random], Tensor]:
    """The mask as float, with one value that is neither 0 nor 1."""

    def change(call: Call, _subject: Subject, random: Random) -> Tensor:
        mask = call["attention_mask"].float()
        mask[random.integers(len(mask)), random.integers(mask.shape[1])] = values[
            random.integers(len(values))
        ]
        return mask

    return change


def _bad_embeds(*values: float) -> Draw:
    def call(subject: Subject, random: Random) -> Call:
        right = embeds(subject, random)
        where = tuple(int(random.integers(size)) for size in right["inputs_embeds"].shape)
        right["inputs_embeds"][where] = values[random.integers(len(values))]
        return right

    return call


# Invalid calls: each must raise a one-line ValueError that begins with the name given.
WRONG: dict[str, tuple[str, Draw]] = {
    "ids beyond the vocabulary": ("input_ids", _with(input_ids=_one_id(0, 2**40))),
    "negative ids": ("input_ids", _with(input_ids=_one_id(-(2**40), 0))),
    "ids of another type": (
        "input_ids",
        _with(
            input_ids=lambda call, _subject, random: call["input_ids"].to(
                (torch.float32, torch.bool, torch.uint8, torch.int16)[random.integers(4)]
            )
        ),
    ),
    "ids of another shape": (
        "input_ids",
        _with(
            input_ids=lambda call, _subject, random: (call["input_ids"][0], call["input_ids"][None])[
                random.integers(2)
            ]
        ),
    ),
    "no rows or no tokens": (
        "input_ids",
        _with(
            input_ids=lambda call, _subject, random: (call["input_ids"][:0], call["input_ids"][:, :0])[
                random.integers(2)
            ]
        ),
    ),
    "too long": (
        "input_ids",
        lambda subject, random: {
            "input_ids": ids(subject, random, 1, subject.longest + int(random.integers(1, 9)))
        },
    ),
    "masks of other values": ("attention_mask", _with(attention_mask=_one_value(2, 0.5, -1, -10000, np.nan))),
    "masks of another shape": (
        "attention_mask",
        _with(
            attention_mask=lambda call, _subject, random: (
                call["attention_mask"][:, None, None],
                torch.ones(len(call["input_ids"]), 1, *[call["input_ids"].shape[1]] * 2),
                call["attention_mask"][0],
                torch.ones(len(call["input_ids"]) + 1, call["input_ids"].shape[1]),
            )[random.integers(4)]
        ),
    ),
    "NaN, infinite or huge inputs_embeds": ("inputs_embeds", _bad_embeds(np.nan, np.inf, -np.inf, 1e30)),
    "inputs_embeds of another shape or type": (
        "inputs_embeds",
        lambda subject, random: {
            "inputs_embeds": (
                torch.zeros(2, 3, subject.model.config.hidden_size + 1),
                torch.zeros(2, subject.model.config.hidden_size),
                torch.zeros(2, 3, subject.model.config.hidden_size, dtype=torch.float64),
                torch.zeros(2, 3, subject.model.config.hidden_size, dtype=torch.int64),
            )[random.integers(4)]
        },
    ),
    "token types out of their table": (
        "token_type_ids",
        _with(
            token_type_ids=lambda call, _subject, random: torch.full_like(
                call["input_ids"], (2, -1)[random.integers(2)]
            )
        ),
    ),
    "positions out of their table": (
        "position_ids",
        _with(
            position_ids=lambda call, subject, random: torch.full_like(
                call["input_ids"], (subject.longest, -1)[random.integers(2)]
            )
        ),
    ),
    "thresholds out of range": (
        "exit_threshold",
        _with(exit_threshold=_one_of((2, -1.5, np.nan, np.inf, "full", True, [0.9], [0.9] * 99, {}))),
    ),
    "layers out of range": ("min_exit_layer", _with(min_exit_layer=_one_of((0, -1, 98, 99, 2.5, True, "3")))),
    "no tensors": ("input_ids", _with(input_ids=lambda call, _subject, _random: call["input_ids"].tolist())),
}  # fmt: skip


def draw_rule(subject: Subject, random: Random) -> Call:
    """An exit rule for a call: the config's, none, one threshold or one a layer; sometimes a depth too."""
    config, layers = subject.model.config, subject.model.config.num_hidden_layers

    def theta() -> float:
        # Half of them near 1, where the cosines of trained models are.
        value = 1 - 10 ** random.uniform(-3, 0) if random.random() < 0.5 else random.uniform(-0.999, 1)
        return float(value)

    rule: Call = {}
    kind = random.integers(4)
    if kind == 1:
        rule["exit_threshold"] = None
    elif kind == 2:
        rule["exit_threshold"] = theta()
    elif kind == 3:
        rule["exit_threshold"] = [theta() if random.random() < 0.7 else None for _ in range(layers)]
    if random.random() < 0.5:
        last = layers if config.landing_layer is None else config.landing_layer - 2
        last = last if config.max_exit_layer is None else config.max_exit_layer
        rule["min_exit_layer"] = int(random.integers(config.exit_patience, last + 1))
    if random.random() < 0.25:
        rule["max_layers"] = int(random.integers(1, layers + 1))
    return rule
