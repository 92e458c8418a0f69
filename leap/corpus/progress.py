"""What a long run shows, and what it says of itself at its end: speed, exit layer, time, memory."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm


class Progress:
    """Progress bar of this process's share of the rows, and seconds by stage.

    Args:
        rows: of the share, about; None where that is not known, and no time left is shown.
        done: how many of them an earlier run wrote.
        processes: how many share the work.
        show: the bar; one process is to show it.
    """

    def __init__(self, rows: int | None, done: int, processes: int, show: bool) -> None:
        self.processes = processes
        self.seconds: dict[str, float] = {}
        self.texts = self.layers = 0
        self.since = time.perf_counter()
        # Over the whole run and not the last batches: those of a shard begin with its longest texts.
        self.bar = tqdm(total=rows, initial=done, disable=not show, unit=" sentences", smoothing=0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the seconds of the block as of this stage."""
        since = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - since)

    def add(self, name: str, seconds: float) -> None:
        """Count seconds as of a stage."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def batch(self, texts: int, layers: int) -> None:
        """Count a batch and the sum of its exit layers."""
        self.texts += texts
        self.layers += layers
        if self.bar.total is not None and self.bar.n + texts > self.bar.total:
            self.bar.total = self.bar.n + texts  # it was an estimate
        shown = {"exit layer": f"{self.layers / self.texts:.2f}"}
        if self.processes > 1:
            speed = self.texts / (time.perf_counter() - self.since) * self.processes
            shown["all processes"] = f"~{speed:.0f} sentences/s"
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update(texts)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        """End the bar, before an error is said too."""
        self.bar.close()

    def figures(self) -> dict[str, object]:
        """What this process did: `texts`, `seconds` of each stage, `peak_memory_bytes`."""
        return {
            "texts": self.texts,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "peak_memory_bytes": peak_memory(),
        }


def peak_memory() -> int | None:
    """The most memory that this process has held so far, in bytes; None where the system does not tell."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
