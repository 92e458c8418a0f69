"""The fuzzer and its oracle: calls of every kind on a tiny model, and faults that they have to find."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_data import RULE, save_tiny, tiny_tokenizer
from torch import Tensor

from eval.__main__ import main
from eval.quality.oracle import judge, plain_bert
from eval.stress.fuzz import draw_kind, fuzz, tiny_subject
from eval.stress.fuzz_calls import LONG, RIGHT, WRONG, Subject
from modeling_leap import LeapModel, _Batch

MakeModel = Callable[..., LeapModel]


@pytest.fixture
def subject() -> Subject:
    """The fuzzer's tiny model with tiny words."""
    return tiny_subject(tiny_tokenizer(), seed=0)


def test_calls_of_every_kind(subject: Subject) -> None:
    tally = fuzz(subject, 2 * (len(RIGHT) + len(WRONG)), seed=1).to_json()
    assert tally["first_failures"] == []
    assert set(tally["kinds"]) == {*RIGHT, *WRONG, *LONG}
    assert tally["right"] + tally["clear_errors"] == tally["calls"]
    for kind, counts in tally["kinds"].items():
        assert counts["clear_errors" if kind in WRONG else "right"] == counts["calls"] > 0
    assert sum(tally["exit_histogram"]) == tally["rows_compared"] > 0
    assert all(tally["exit_histogram"][1:]), "the test needs rows that leave at every layer"


def test_a_model_with_a_landing_layer() -> None:
    subject = tiny_subject(tiny_tokenizer(), seed=0, landing_layer=4, min_exit_layer=1)
    tally = fuzz(subject, len(RIGHT) + len(WRONG), seed=1).to_json()
    assert tally["first_failures"] == []
    assert {1, 2, 4} == {layer for layer, count in enumerate(tally["exit_histogram"], start=1) if count}


def test_the_same_seed_draws_the_same(subject: Subject) -> None:
    for kind, draw in RIGHT.items():
        one, two = (draw(subject, np.random.default_rng((3, 5))) for _ in range(2))
        assert all(torch.equal(one[name], two[name]) for name in one), kind
    assert {draw_kind(number) for number in range(502)} == {*RIGHT, *WRONG, *LONG}


Break = Callable[[pytest.MonkeyPatch], None]


def _unsorted_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    join = _Batch.join

    def broken(self: _Batch) -> None:
        join(self)
        self.hidden = self.hidden.flip(0)

    monkeypatch.setattr(_Batch, "join", broken)


def _late_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    leave = _Batch.let_leave
    monkeypatch.setattr(_Batch, "let_leave", lambda self, theta, number: leave(self, theta + 0.05, number))


def _padding_in_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    def equal_weights(hidden: Tensor, _mask: Tensor | None) -> Tensor:
        return hidden.new_full((*hidden.shape[:2], 1), 1 / hidden.shape[1])

    monkeypatch.setattr("modeling_leap._pooling_weights", equal_weights)


def _unchecked_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "modeling_leap._check_mask", lambda mask, _shape: mask if mask is None else mask.bool()
    )


def _unchecked_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LeapModel, "_check_ids", lambda *_arguments: None)


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (_unsorted_rows, "another embedding"),
        (_late_exit, "left at layer"),
        (_padding_in_the_mean, "another embedding"),
        (_unchecked_mask, "masks of other values: no error"),
        (_unchecked_ids, "ids beyond the vocabulary: IndexError"),
    ],
)
def test_faults_are_found(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, break_it: Break, complaint: str
) -> None:
    break_it(monkeypatch)
    failures = fuzz(subject, 3 * (len(RIGHT) + len(WRONG)), seed=2).failures
    assert any(complaint in failure for failure in failures)


def test_ties_are_excused_and_counted(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    call = {"input_ids": torch.arange(1, 9).view(2, 4)}
    model, bert = subject.model, plain_bert(subject.model)
    with torch.inference_mode():
        layers = model(**call, output_layer_embeddings=True).layer_embeddings[:, 1:]
        theta = float(torch.cosine_similarity(layers[0, 1], layers[0, 0], dim=0))
        for offset, tied, wrong in ((0.5e-4, 1, 0), (2e-4, 0, 1)):
            call |= {"exit_threshold": theta + offset, "min_exit_layer": 2}
            # The model errs by as much as the threshold it leaves by is lower than the one asked for.
            output = model(**(call | {"exit_threshold": theta - 1e-6}))
            verdict = judge(bert, model, call, output)
            assert (verdict.tied, len(verdict.wrong)) == (tied, wrong)


def test_command(make_tiny_model: MakeModel, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "tiny", make_tiny_model(**RULE))
    output = tmp_path / "fuzz.json"
    command = ["fuzz", "--model", str(folder), "--calls", "70", "--tiny_calls", "40", "--output", str(output)]
    assert main(command) == 0
    figures = json.loads(output.read_text())["figures"]
    calls = {"model": 70, "tiny": 40, "tiny_landing": 40}
    assert {name: figures[name]["calls"] for name in calls} == calls
    assert not any(figures[name]["failures"] for name in calls)
