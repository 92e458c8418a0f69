"""Hours of mixed batches from several threads: is memory flat, are vectors stable, is speed steady?

    python -m eval endurance --model . --minutes 60 --output results/endurance.json

Threads take turns through the same batches, of 1 to 64 texts, at the config's exit rule, another and full
depth, with every encoder there is. All the while a fixed set of texts is encoded again and compared with what
it gave at the start. The first tenth of the time is the warm-up that memory is not judged by.
"""

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import torch

from eval.frame import OfModel
from eval.report import Report
from eval.speed.runtimes import load_runtime
from leap.arguments import check_at_least, option
from leap.encode.encoder import Encoder, Encoding, encode
from leap.errors import UsageError
from leap.text.samples import load_texts_or_pairs, texts_of

PARTS = 10  # tenths of the time
# What is promised, and told with every result.
MEMORY_BOUND = 64 * 2**20  # bytes, from the second tenth to the last, medians
DRIFT_BOUND = 1e-5  # of a component of an embedding
SPEED_BOUND = 0.9  # texts a second of the last tenth over those of the first

PROBE = 32  # texts that are encoded again and again
PROBES = 20  # times in all
BATCHES = 200
SIZES = (1, 1, 1, 2, 4, 8, 16, 32, 64)
RULES: tuple[dict[str, Any], ...] = ({}, {}, {"exit_threshold": 0.95}, {"exit_threshold": None})
SEED = 0

# Texts and an exit rule to embeddings; called from several threads at once.
Encode = Callable[[Sequence[str], Mapping[str, Any]], Encoding]


@dataclass
class Course:
    """What was observed in one run.

    Attributes:
        seconds: it lasted.
        texts: (PARTS,) texts encoded in each tenth.
        memory: (time in seconds, resident bytes) of the process, in the order of time.
        drift: by encoder, the largest difference of a probe from the first one.
        moved: by encoder, probes in which a text left at another layer than at first.
        probes: how many were taken of each encoder.
        calls: by encoder, of all threads.
        errors: what was raised.
    """

    seconds: float
    texts: np.ndarray = field(default_factory=lambda: np.zeros(PARTS, dtype=np.int64))
    memory: list[tuple[float, int]] = field(default_factory=list)
    drift: dict[str, float] = field(default_factory=dict)
    moved: dict[str, int] = field(default_factory=dict)
    probes: int = 0
    calls: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def part(self, now: float) -> int:
        """Which tenth the second `now` belongs to, from 0."""
        return min(int(now / self.seconds * PARTS), PARTS - 1)

    def figures(self) -> dict[str, Any]:
        """The figures of the result, with each promise and whether it was kept."""
        memory: list[list[int]] = [[] for _ in range(PARTS)]
        for now, size in self.memory:
            memory[self.part(now)].append(size)
        medians = [int(statistics.median(sizes)) if sizes else None for sizes in memory]
        speeds = (self.texts / (self.seconds / PARTS)).tolist()
        second, last = medians[1], medians[-1]
        growth = None if second is None or last is None else last - second
        ratio = speeds[-1] / speeds[0] if speeds[0] else 0.0
        return {
            "seconds": round(self.seconds, 1),
            "calls": self.calls,
            "texts": int(self.texts.sum()),
            "texts_per_second": speeds,
            "memory": medians,
            "memory_growth": growth,
            "memory_bound": MEMORY_BOUND,
            "probes": self.probes,
            "drift": self.drift,
            "drift_bound": DRIFT_BOUND,
            "probes_at_other_layers": self.moved,
            "last_over_first_tenth": ratio,
            "speed_bound": SPEED_BOUND,
            "errors": self.errors,
            "kept": {
                "memory": growth is not None and growth <= MEMORY_BOUND,
                "drift": max(self.drift.values(), default=0.0) <= DRIFT_BOUND
                and not any(self.moved.values()),
                "speed": ratio >= SPEED_BOUND,
                "errors": not self.errors,
            },
        }


def draw_batches(texts: Sequence[str]) -> list[list[str]]:
    """`BATCHES` batches of all sizes, texts of all lengths in each."""
    random = np.random.default_rng(SEED)
    return [
        [texts[row] for row in random.integers(len(texts), size=SIZES[number % len(SIZES)])]
        for number in range(BATCHES)
    ]


def endure(encoders: Mapping[str, Encode], texts: Sequence[str], *, seconds: float, threads: int) -> Course:
    """Encode for `seconds` from several threads at once.

    Args:
        encoders: by name; the threads take turns with them.
        texts: to draw from; the first are the probe.
        seconds: how long.
        threads: how many call at once.
    """
    batches, probe = draw_batches(texts), list(texts[:PROBE])
    course, lock, stop = Course(seconds), threading.Lock(), threading.Event()
    names = list(encoders)
    first = {name: encoders[name](probe, {}) for name in names}
    course.drift, course.moved = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    course.calls = dict.fromkeys(names, 0)
    since = time.monotonic()

    def work(thread: int) -> None:
        turn = thread * BATCHES // threads  # each somewhere else in the same round
        while not stop.is_set():
            name, rule = names[turn % len(names)], RULES[turn // len(names) % len(RULES)]
            batch = batches[turn % BATCHES]
            try:
                found = encoders[name](batch, rule)
                if not np.isfinite(found.embeddings).all():
                    raise ArithmeticError("an embedding that is not finite")
            except Exception as error:
                with lock:
                    course.errors.append(f"{name}: {type(error).__name__}: {error}")
                stop.set()
                return
            now = time.monotonic() - since
            with lock:
                if now < seconds:
                    course.texts[course.part(now)] += len(batch)
                course.calls[name] += 1
            turn += 1

    def compare() -> None:
        course.probes += 1
        for name in names:
            found = encoders[name](probe, {})
            difference = float(np.abs(found.embeddings - first[name].embeddings).max())
            course.drift[name] = max(course.drift[name], difference)
            course.moved[name] += bool((found.exit_layers != first[name].exit_layers).any())

    workers = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(threads)]
    for worker in workers:
        worker.start()
    process, wait = psutil.Process(), min(1.0, seconds / 100)
    while not stop.wait(wait) and (now := time.monotonic() - since) < seconds:
        course.memory.append((now, process.memory_info().rss))
        if now >= seconds * course.probes / PROBES:
            compare()
    stop.set()
    for worker in workers:
        worker.join()
    compare()
    return course


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set the number of torch threads within a call, and restore it afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def torch_encoder(encoder: Encoder) -> Encode:
    """`LeapModel` as its users call it."""
    return lambda texts, rule: encode(encoder, texts, batch_size=64, **rule)


def onnx_encoder(source: str, threads: int) -> Encode:
    """`LeapEncoder` over ONNX Runtime, as its users call it.

    Raises:
        UsageError: as `eval.speed.runtimes.load_runtime`.
    """
    found = load_runtime(source, threads=threads)
    return lambda texts, rule: found(texts, rule, 64)


@dataclass(kw_only=True)
class Options(OfModel):
    """Options of this evaluation."""

    data: str = option("texts (.txt, .jsonl ...), or pairs: CSV, stsb, STS12 ... or a Hub id", "stsb")
    split: str = option("split of a set of pairs", "test")
    minutes: float = option("minutes to run", 60.0)
    threads: int = option("threads that call at once", 4)

    def __post_init__(self) -> None:
        """See `eval.frame.Options`."""
        super().__post_init__()
        check_at_least(self, 1, "threads")


def run(options: Options) -> Report:
    """Run it as the command does."""
    data = load_texts_or_pairs(options.data, options.split)
    encoder = options.encoder()
    encoders, left_out = {"torch": torch_encoder(encoder)}, {}
    each = max(1, torch.get_num_threads() // options.threads)  # threads of a call: no more in all than cores
    try:
        encoders["onnx"] = onnx_encoder(options.model, each)
    except UsageError as error:
        left_out["onnx"] = str(error)
    with torch_threads(each):
        course = endure(encoders, texts_of(data), seconds=60 * options.minutes, threads=options.threads)
    figures = {
        "threads": options.threads,
        "encoders": list(encoders),
        "left_out": left_out,
    } | course.figures()
    return Report(figures=figures, summary=_summary(figures), models={"model": encoder}, data=data, seed=SEED)


def _summary(figures: dict[str, Any]) -> str:
    growth, moved = figures["memory_growth"], figures["probes_at_other_layers"]
    grown = "unknown" if growth is None else f"{growth / 2**20:+.1f} MiB"
    kept = {name: "kept" if held else "NOT KEPT" for name, held in figures["kept"].items()}
    lines = [
        f"{figures['texts']:,} texts in {figures['seconds']:,.0f} s, {figures['threads']} threads at once, "
        f"calls {figures['calls']}",
        f"memory: {grown} from the second tenth to the last (bound {MEMORY_BOUND / 2**20:.0f}): "
        f"{kept['memory']}",
        f"drift: {figures['drift']} over {figures['probes']} probes (bound {DRIFT_BOUND:g}), probes with "
        f"other exit layers {moved}: {kept['drift']}",
        f"speed: last tenth over first {figures['last_over_first_tenth']:.3f} (bound {SPEED_BOUND:g}): "
        f"{kept['speed']}",
    ]
    lines += [f"{name} was left out: {why}" for name, why in figures["left_out"].items()]
    return "\n".join([*lines, *(f"error: {error}" for error in figures["errors"])])
