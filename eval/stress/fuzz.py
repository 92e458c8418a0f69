"""Random calls: each returns the right vectors or raises one clear ValueError.

    python -m eval fuzz --model . --calls 5000 --tiny_calls 100000 --output results/fuzz.json

Every call is drawn from the seed and its own number, and judged by `oracle.py`: each row once more alone,
unpadded, through plain BertModel, the exit rule recomputed from the embeddings of all layers.
"""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from configuration_leap import LeapConfig
from eval.frame import OfModel
from eval.quality.oracle import TIE_BAND, TOLERANCE, judge, plain_bert
from eval.report import Report
from eval.stress.fuzz_calls import LONG, RIGHT, WRONG, Draw, Random, Subject, draw_rule
from leap.arguments import check_at_least, option
from leap.encode.encoder import load_encoder
from leap.files import checksum
from leap.text.sets import TextData
from modeling_leap import LeapModel

RARELY = 500  # calls for each call of a slow kind
SHOWN = 20  # failures that a result names


@dataclass
class Tally:
    """Outcomes of calls to one model, counted by kind of input."""

    calls: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    clear_errors: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    tied_rows: int = 0
    exits: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The figures for a result."""
        return {
            "calls": self.calls.total(),
            "rows_compared": self.rows,
            "rows_in_tie_band": self.tied_rows,
            "exit_histogram": [self.exits[layer] for layer in range(1, max(self.exits, default=0) + 1)],
            "right": self.right.total(),
            "clear_errors": self.clear_errors.total(),
            "failures": len(self.failures),
            "first_failures": self.failures[:SHOWN],
            "kinds": {
                kind: {"calls": count, "right": self.right[kind], "clear_errors": self.clear_errors[kind]}
                for kind, count in sorted(self.calls.items())
            },
        }


def draw_kind(number: int) -> str:
    """The kind of a call by its number: all kinds in turn, slow ones once in `RARELY` calls."""
    if number % RARELY < len(LONG):
        return list(LONG)[number % RARELY]
    kinds = [*RIGHT, *WRONG]
    return kinds[number % len(kinds)]


def fuzz(subject: Subject, calls: int, seed: int, progress: str | None = None) -> Tally:
    """Make `calls` calls and check each.

    Args:
        subject: what is called.
        calls: how many.
        seed: with its number, each call's own.
        progress: the label of a progress bar; None: no bar.
    """
    bert, tally = plain_bert(subject.model), Tally()
    for number in tqdm(range(calls), desc=progress, unit="call", disable=progress is None):
        kind, random = draw_kind(number), np.random.default_rng((seed, number))
        tally.calls[kind] += 1
        if kind in WRONG:
            complaint = _must_fail(subject, *WRONG[kind], random)
            tally.clear_errors[kind] += complaint is None
        else:
            complaint = _must_be_right(subject, bert, (RIGHT | LONG)[kind], random, tally)
            tally.right[kind] += complaint is None
        if complaint is not None:
            tally.failures.append(f"call {number}, {kind}: {complaint}")
    return tally


def _must_be_right(subject: Subject, bert: Any, draw: Draw, random: Random, tally: Tally) -> str | None:
    call = draw(subject, random) | draw_rule(subject, random)
    try:
        with torch.inference_mode():
            output = subject.model(**call)
        verdict = judge(bert, subject.model, call, output)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    tally.rows += verdict.rows
    tally.tied_rows += verdict.tied
    tally.exits.update(verdict.exits)
    return "; ".join(verdict.wrong) or None


def _must_fail(subject: Subject, name: str, draw: Draw, random: Random) -> str | None:
    call = draw_rule(subject, random) | draw(subject, random)
    try:
        with torch.inference_mode():
            subject.model(**call)
    except ValueError as error:
        message = str(error)
        return None if message.startswith(name) and "\n" not in message else f"unclear: {message!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def tiny_subject(tokenizer: PreTrainedTokenizerBase, seed: int, **form: int) -> Subject:
    """A random model of four layers whose rows leave at all of them, for the tokenizer's vocabulary.

    Args:
        tokenizer: of the texts.
        seed: of the weights.
        **form: further fields of its config, such as `landing_layer`.
    """
    torch.manual_seed(seed)
    config = LeapConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
        exit_threshold=0.5,
        **({"min_exit_layer": 2} | form),
    )
    return Subject(LeapModel(config).eval(), tokenizer, 64)


@dataclass(kw_only=True)
class Options(OfModel):
    """Options of this evaluation."""

    calls: int = option("calls of the model", 5000)
    tiny_calls: int = option("calls of a tiny random model", 100_000)
    seed: int = option("random seed", 0)

    def __post_init__(self) -> None:
        """See `eval.frame.Options`."""
        super().__post_init__()
        check_at_least(self, 1, "calls", "tiny_calls")


def run(options: Options) -> Report:
    """Run it as the command does."""
    encoder = load_encoder(options.model, trust_remote_code=options.trust_remote_code, device="cpu")
    subjects = {
        "tiny": (tiny_subject(encoder.tokenizer, options.seed), options.tiny_calls),
        "tiny_landing": (
            tiny_subject(encoder.tokenizer, options.seed, landing_layer=4, min_exit_layer=1),
            options.tiny_calls,
        ),
        "model": (Subject(encoder.model, encoder.tokenizer, encoder.max_length), options.calls),
    }
    figures: dict[str, Any] = {"tie_band": TIE_BAND, "tolerance": TOLERANCE}
    lines = []
    for name, (subject, calls) in subjects.items():
        since = time.perf_counter()
        found = fuzz(subject, calls, options.seed, progress=name).to_json()
        figures[name] = found | {"seconds": round(time.perf_counter() - since, 1)}
        lines.append(
            f"{name}: {found['calls']:,} calls, {found['right']:,} right, {found['clear_errors']:,} clear "
            f"errors, {found['failures']} failures; {found['rows_compared']:,} rows compared, "
            f"{found['rows_in_tie_band']} left elsewhere within the tie band; exits {found['exit_histogram']}"
        )
        lines += [f"  {failure}" for failure in found["first_failures"]]
    return Report(
        figures=figures,
        summary="\n".join(lines),
        models={"model": encoder},
        data=TextData("generated", checksum([options.seed, options.calls, options.tiny_calls])),
        seed=options.seed,
    )
