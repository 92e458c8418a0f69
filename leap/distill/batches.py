"""Batches of texts of like length, bounded in tokens, in an order that seed and epoch alone decide."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from leap.distill.options import TrainOptions
from leap.text.tokens import TokenRows

BUCKET = 16_384  # texts sorted by length at a time: little padding, and an order that is random still


def length_grouped_batches(
    lengths: np.ndarray,
    batch_tokens: int,
    batch_size: int,
    seed: int,
    epoch: int,
    processes: int = 1,
) -> list[np.ndarray]:
    """The global batches of one epoch: texts of like length together, batches in random order.

    The same arguments give the same batches, so a run is resumed by leaving out those it has done. A process
    takes every `processes`-th row of each, so that none waits for another's longer texts.

    Args:
        lengths: tokens of each text.
        batch_tokens: tokens of one process's batch at most, padding counted, unless one text has more.
        batch_size: texts of one process's batch at most.
        seed: of the run.
        epoch: from 0; each has a shuffle of its own.
        processes: how many share a global batch.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    batches = []
    for bucket in (order[i : i + BUCKET] for i in range(0, len(order), BUCKET)):
        rows = bucket[np.argsort(lengths[bucket], kind="stable")]
        start = 0
        while start < len(rows):
            # The widest text of a batch is its last: shrink until the batch fits as wide as that.
            count = min(batch_size * processes, len(rows) - start)
            while count > processes and count * lengths[rows[start + count - 1]] > batch_tokens * processes:
                fits = batch_tokens * processes // int(lengths[rows[start + count - 1]])
                count = max(processes, min(count - 1, fits))
            batches.append(rows[start : start + count])
            start += count
    # What cannot be dealt evenly waits for the next epoch's shuffle.
    batches = [rows[: len(rows) // processes * processes] for rows in batches if len(rows) >= processes]
    return [batches[i] for i in rng.permutation(len(batches))]


class _Batches(Dataset):
    """Whole batches as items: collating costs one vectorised call, in a worker where there are any."""

    def __init__(self, rows: TokenRows, batches: list[np.ndarray], pad_id: int, multiple: int) -> None:
        self.rows, self.batches, self.pad_id, self.multiple = rows, batches, pad_id, multiple

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.rows.batch(self.batches[index], self.pad_id, self.multiple)


def batch_loader(
    rows: TokenRows, batches: list[np.ndarray], pad_id: int, workers: int = 0, cuda: bool = False
) -> DataLoader:
    """Batches in the order given: `input_ids` and `attention_mask`, (B, T) int64.

    Args:
        rows: where the texts are.
        batches: for each batch its rows.
        pad_id: the tokenizer's.
        workers: processes that prepare batches ahead; 0 for none.
        cuda: pin the memory and pad to multiples of 8, which its matrix units like.
    """
    dataset = _Batches(rows, batches, pad_id, 8 if cuda else 1)
    return DataLoader(dataset, batch_size=None, shuffle=False, num_workers=workers, pin_memory=cuda)


def training_batches(
    rows: TokenRows,
    texts: np.ndarray,
    options: TrainOptions,
    pad_id: int,
    device: torch.device,
    process: int,
    processes: int,
    done: int = 0,
) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Batches without end: how many texts and tokens all processes have in one, and this one's ids and mask.

    They depend on seed and epoch alone, so that a resumed run leaves out those done.

    Args:
        rows: where the texts are.
        texts: which of them to train on.
        options: of the run.
        pad_id: the tokenizer's.
        device: of ids and mask, both (B, T) int64.
        process: number of this process.
        processes: how many share a global batch.
        done: batches to leave out.

    Raises:
        ValueError: there are fewer texts than processes.
    """
    lengths, epoch = rows.lengths[texts], 0
    while True:
        sizes = options.batch_tokens, options.batch_size
        order = length_grouped_batches(lengths, *sizes, options.seed, epoch, processes)
        if not order:
            raise ValueError(f"--data has {len(texts)} texts, fewer than there are processes: give more")
        own = [texts[batch[process::processes]] for batch in order[done:]]
        loader = batch_loader(rows, own, pad_id, options.workers, device.type == "cuda")
        for batch, found in zip(order[done:], loader, strict=True):
            ids, mask = (
                found[name].to(device, non_blocking=True) for name in ("input_ids", "attention_mask")
            )
            yield len(batch), int(lengths[batch].sum()), ids, mask
        epoch, done = epoch + 1, max(0, done - len(order))
