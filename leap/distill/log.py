"""Progress of a run: a bar, a tracker and the rows of log.json."""

import math
import time

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from leap.distill.checkpoint import Progress


class Log:
    """Means of the terms between reports, the same in every process.

    What a process logs depends on the step alone, never on what it did besides: all processes meet in a
    report, and one that came at another step would wait for ever.

    Args:
        accelerator: of the run.
        every: optimizer steps between reports.
        progress: of the run, whose rows it adds to.
        total: tokens of the whole run.
    """

    def __init__(self, accelerator: Accelerator, every: int, progress: Progress, total: float) -> None:
        self.accelerator, self.every, self.progress = accelerator, every, progress
        self.bar = tqdm(
            total=int(total),
            initial=progress.tokens,
            disable=not accelerator.is_main_process,
            unit="tok",
        )
        self._restart()

    def _restart(self) -> None:
        self.since, self.batches, self.texts, self.tokens = time.perf_counter(), 0, 0, 0
        self.sums: dict[str, Tensor] = {}

    def add(self, texts: int, tokens: int, terms: dict[str, Tensor]) -> None:
        """Count a batch of all processes; its terms stay on the device."""
        self.batches += 1
        self.texts += texts
        self.tokens += tokens
        self.bar.update(tokens)
        for name, value in terms.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def step(self, step: int, learning_rate: float) -> None:
        """Note an optimizer step; every so many, read the mean terms and show them.

        Raises:
            ValueError: the loss is not finite.
        """
        if step % self.every:
            return
        sums = torch.stack(list(self.sums.values())) / self.batches
        values = self.accelerator.reduce(sums, "mean").tolist()  # over processes, and one wait for all
        means = {name: round(value, 5) for name, value in zip(self.sums, values, strict=True)}
        _require_finite(means)
        seconds = time.perf_counter() - self.since
        speed = {"tokens_per_second": self.tokens / seconds, "texts_per_second": self.texts / seconds}
        means |= {name: round(value, 1) for name, value in speed.items()}
        self.bar.set_postfix(means)
        self.figures({"tokens": self.progress.tokens, "learning_rate": learning_rate, **means})
        self._restart()

    def check(self) -> None:
        """Raise a ValueError if the loss since the last report is not finite: such weights are not kept."""
        _require_finite({name: value.item() for name, value in self.sums.items()})

    def figures(self, figures: dict[str, float]) -> None:
        """Note figures of the step the run is at."""
        self.accelerator.log(figures, step=self.progress.step)
        self.progress.rows.append({"step": self.progress.step, **figures})

    def close(self) -> None:
        """End the bar."""
        self.bar.close()


def _require_finite(terms: dict[str, float]) -> None:
    if not all(map(math.isfinite, terms.values())):
        raise ValueError(
            f"the loss is not finite ({terms}): the last checkpoint is kept; lower --learning_rate and start "
            "a run of another --output_dir"
        )
