"""Batches bounded in tokens and texts: all texts, none twice, the same for the same seed and epoch."""

import numpy as np
import pytest

from leap.distill.batches import batch_loader, length_grouped_batches
from leap.text.tokens import TokenRows

LENGTHS = np.random.default_rng(0).integers(2, 200, 5000)


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize(("tokens", "size"), [(1000, 64), (3000, 8), (150, 256)])
def test_bounds_hold_and_no_text_is_lost(processes: int, tokens: int, size: int) -> None:
    batches = length_grouped_batches(LENGTHS, tokens, size, 0, 0, processes)
    for rows in batches:
        assert len(rows) % processes == 0
        for part in (rows[process::processes] for process in range(processes)):
            assert len(part) <= size
            # One text may have more tokens than a batch is allowed.
            assert len(part) == 1 or len(part) * LENGTHS[rows].max() <= tokens
    seen = np.concatenate(batches)
    assert len(np.unique(seen)) == len(seen)
    assert len(LENGTHS) - len(seen) < processes * len(batches)
    if processes == 1:
        assert len(seen) == len(LENGTHS)


def test_the_order_is_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return np.concatenate(length_grouped_batches(LENGTHS, 1000, 64, seed, epoch)).tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_little_padding_and_no_order_by_length() -> None:
    batches = length_grouped_batches(LENGTHS, 3000, 256, 0, 0)
    padded = sum(len(rows) * LENGTHS[rows].max() for rows in batches)
    assert padded < 1.02 * LENGTHS.sum()
    widths = np.array([LENGTHS[rows].max() for rows in batches])
    assert abs(np.corrcoef(widths, np.arange(len(widths)))[0, 1]) < 0.2


def test_loader_pads_as_it_is_asked() -> None:
    rows = TokenRows(np.arange(6), np.array([0, 1, 3, 6]))
    (batch,) = batch_loader(rows, [np.array([2, 0])], pad_id=9)
    assert batch["input_ids"].tolist() == [[3, 4, 5], [0, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_fewer_texts_than_processes_make_no_batch() -> None:
    assert length_grouped_batches(np.array([5]), 1000, 64, 0, 0, processes=2) == []
