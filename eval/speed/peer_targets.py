"""Targets of the comparison: exits pay off in every library, and LEAP is ahead of every peer.

Figures are compared as they are printed, so that words and tables never disagree.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from eval.speed.peer_runtimes import EXITS, LOOKUP

Json = dict[str, Any]

# Of exits over full depth in the same library, at batch 1: what the paper reports of torch on a GPU.
SPEEDUP = 1.6
# Share of layers over the mean of layers run that the speedup has to reach; regrouping costs batches some.
SHARE_ALONE, SHARE_BATCHED = 0.90, 0.85


class Race(NamedTuple):
    """LEAP in its fastest library of the same or a better precision, with exits, against a peer.

    Attributes:
        peer: key of the teacher's library.
        leap: key of LEAP's.
        times: the peer's time over LEAP's, median over rounds.
    """

    peer: str
    leap: str
    times: float

    @property
    def won(self) -> bool:
        """Whether LEAP is faster."""
        return round(self.times, 2) > 1


def settings(figures: Json) -> list[tuple[str, int]]:
    """Kinds of texts and batch sizes, in the order measured."""
    return list(dict.fromkeys((row["texts"], row["batch_size"]) for row in figures["rows"]))


def row_of(figures: Json, setting: tuple[str, int], peer: str, variant: str | None = None) -> Json:
    """The row of a peer at a setting, of its first variant or the one named."""
    key = (*setting, peer)
    return next(
        row
        for row in figures["rows"]
        if (row["texts"], row["batch_size"], row["peer"]) == key and variant in (None, row["variant"])
    )


def exit_rows(figures: Json) -> list[Json]:
    """The rows of LEAP's exits, in every library at every setting."""
    return [row for row in figures["rows"] if row["variant"] == EXITS]


def near_enough(row: Json) -> bool:
    """Whether a row of exits has the share of the possible speedup that its batch size has to reach."""
    return round(row["share"], 2) >= (SHARE_ALONE if row["batch_size"] == 1 else SHARE_BATCHED)


def admitted(figures: Json, precision: str) -> list[str]:
    """LEAP's libraries that may race a peer: of its precision, or of float32, which is no worse."""
    return [
        name
        for name, peer in figures["peers"].items()
        if peer["model"] == "leap" and peer["precision"] in (precision, "float32")
    ]


def races(figures: Json) -> Iterator[Race]:
    """Every library of the teacher against LEAP's fastest admitted one, at every setting."""
    for setting in settings(figures):
        for name, peer in figures["peers"].items():
            leap = admitted(figures, peer["precision"])
            if peer["model"] == "leap" or peer["precision"] == LOOKUP or not leap:
                continue
            own = {entry: row_of(figures, setting, entry, EXITS) for entry in leap}
            best = max(own, key=lambda entry: own[entry]["ratio"])
            # Both ratios have the same baseline in the same round, so their quotient is taken round by round.
            times = np.divide(own[best]["ratios"], row_of(figures, setting, name)["ratios"])
            yield Race(name, best, float(np.median(times)))


def summary(figures: Json) -> str:
    """The figures as text."""
    lines = [f"{figures['threads']} threads; p50 / p95 ms of a batch, and how often as fast as the baseline"]
    quality = {(row["peer"], row["variant"]): row for row in figures["quality"]}
    for texts, size in settings(figures):
        kind = next(kind for kind in figures["texts"] if kind["name"] == texts)
        lines.append(f"{size} x {texts} ({kind['mean_tokens']:.1f} tokens on average)")
        for row in figures["rows"]:
            if (row["texts"], row["batch_size"]) != (texts, size):
                continue
            peer, key = figures["peers"][row["peer"]], (row["peer"], row["variant"])
            label = f"{row['peer']}, {row['variant']}" if peer["model"] == "leap" else row["peer"]
            line = f"  {label:<42}{row['p50_ms']:>9.2f}{row['p95_ms']:>9.2f}{row['ratio']:>7.2f}"
            line += f"  STS {quality[key]['spearman']:.4f}  {peer['peak_mb']:>5.0f} MB"
            if row["variant"] == EXITS:
                line += f"  speedup {row['speedup']:.2f} of {row['possible']:.2f} ({row['share']:.0%})"
            lines.append(line)
    for row in figures["stream"]:
        way = f"{row['clients']} clients" if row["clients"] else f"{row['rate']:.1f} texts/s arrive"
        label = f"{row['peer']}, {row['variant']}"
        line = f"  {way:<22}{label:<42}{row['p50_ms']:>9.2f}{row['p95_ms']:>9.2f}{row['p99_ms']:>9.2f}"
        lines.append(line + (f"{row['texts_per_s']:>9.1f} texts/s" if row["clients"] else ""))
    own = exit_rows(figures)
    for name, held in (
        (
            f"batch 1, {SPEEDUP} times full depth",
            [round(row["speedup"], 2) >= SPEEDUP for row in own if row["batch_size"] == 1],
        ),
        (f"share of the possible {SHARE_ALONE:.0%}, batched {SHARE_BATCHED:.0%}", [*map(near_enough, own)]),
        ("faster than every peer of the same or a lower precision", [race.won for race in races(figures)]),
    ):
        lines.append(f"{name}: {sum(held)} of {len(held)}")
    lines += [f"missing: {peer['title']}: {peer['install']}" for peer in figures["missing"].values()]
    return "\n".join(lines)
