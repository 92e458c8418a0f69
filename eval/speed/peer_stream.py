"""A realistic stream: queries and passages mixed, arriving one at a time, encoded by one process.

The process takes all texts that wait, up to `MOST`, as one batch, as inference servers do. Texts come from a
number of clients, each of which sends its next text once it has the answer to its last, or at random moments
at a fixed rate, whatever the answers take (Poisson arrivals). A latency is counted from the moment at which a
text was to arrive, so that a server that falls behind cannot hide it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from eval.speed.peer_runtimes import FULL_DEPTH, PEERS

CLIENTS = (1, 4, 16)
LOAD = 0.6  # of what the baseline does with one client: the fixed rate of arrivals
QUERIES = 0.8  # share of queries in the stream
MOST = 32  # texts of a batch
TURNS = 3  # of each variant at a setting, A B C A B C


def mixed_stream(queries: Sequence[str], passages: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` texts in random order, `QUERIES` of them queries."""
    random = np.random.default_rng(seed)
    return [str(random.choice(queries if random.random() < QUERIES else passages)) for _ in range(count)]


def poisson_arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Ascending arrival times in [0, `seconds`), on average `rate` per second."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, size=int(3 * rate * seconds) + 10)
    moments = np.cumsum(gaps)
    return moments[moments < seconds].tolist()


def serve(encode: Callable[[list[str]], Any], texts: Sequence[str], arrivals: Sequence[float]) -> list[float]:
    """Encode texts as they arrive.

    Args:
        encode: of a batch.
        texts: what arrives, in turn; after the last it starts over.
        arrivals: N moments in seconds from now, ascending.

    Returns:
        N latencies in milliseconds, from arrival to answer.
    """
    latencies: list[float] = []
    begun = time.perf_counter()
    while len(latencies) < len(arrivals):
        first = len(latencies)
        wait = begun + arrivals[first] - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        now = time.perf_counter() - begun
        last = first + 1
        while last < min(len(arrivals), first + MOST) and arrivals[last] <= now:
            last += 1
        encode([texts[row % len(texts)] for row in range(first, last)])
        done = time.perf_counter() - begun
        latencies += [1000 * (done - arrival) for arrival in arrivals[first:last]]
    return latencies


def saturate(
    encode: Callable[[list[str]], Any], texts: Sequence[str], clients: int, seconds: float
) -> tuple[list[float], float]:
    """Encode for clients that send their next text as soon as they get an answer.

    Args:
        encode: of a batch.
        texts: what they send, in turn; after the last it starts over.
        clients: how many; no more than `MOST`, so that all that wait are one batch.
        seconds: how long; the last batch may end after it.

    Returns:
        Latencies in milliseconds, one a text, and texts a second.
    """
    latencies: list[float] = []
    begun = now = time.perf_counter()
    while now - begun < seconds:
        first = len(latencies)
        encode([texts[row % len(texts)] for row in range(first, first + clients)])
        done = time.perf_counter()
        latencies += [1000 * (done - now)] * clients
        now = done
    return latencies, len(latencies) / (now - begun)


def statistics(latencies: Sequence[float]) -> dict[str, float]:
    """`p50_ms`, `p95_ms`, `p99_ms`."""
    return {f"p{share}_ms": float(np.percentile(latencies, share)) for share in (50, 95, 99)}


def evaluate_stream(
    asks: Mapping[str, Callable[..., dict[str, Any]]],
    texts: Sequence[str],
    baseline: str,
    seconds: float,
    seed: int,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Serve a stream of texts, in every variant of every library, in `TURNS` turns of each.

    Args:
        asks: name in `PEERS` -> `PeerProcess.ask` of its process.
        texts: of the stream, in their order.
        baseline: the peer that sets the fixed rate of arrivals, at full depth.
        seconds: of a turn.
        seed: of the arrivals.
        progress: show a progress bar.

    Returns:
        One row a setting and variant: `clients`, or None for arrivals at a fixed `rate` a second; `peer`,
        `variant`; `p50_ms`, `p95_ms`, `p99_ms` from arrival to answer; `texts_per_s`, None at a fixed rate.
    """
    keys = [(name, variant) for name in asks for variant in PEERS[name].variants]
    rows: list[dict[str, Any]] = []
    rate = 0.0
    for clients in tqdm((*CLIENTS, None), desc="stream", unit="setting", disable=not progress):
        latencies: dict[tuple[str, str], list[float]] = {key: [] for key in keys}
        rates: dict[tuple[str, str], list[float]] = {key: [] for key in keys}
        for turn in range(TURNS):
            how: dict[str, Any] = {"texts": list(texts)}
            if clients:
                how |= {"clients": clients, "seconds": seconds}
            else:
                how["arrivals"] = poisson_arrivals(rate, seconds, seed + turn)
            for name, variant in keys:
                found = asks[name]("stream", variant=variant, **how)
                latencies[name, variant] += found["latencies"]
                rates[name, variant].append(found.get("texts_per_s", 0.0))
        for name, variant in keys:
            row = {"clients": clients, "rate": None if clients else rate, "peer": name, "variant": variant}
            done = float(np.median(rates[name, variant])) if clients else None
            rows.append(row | statistics(latencies[name, variant]) | {"texts_per_s": done})
        if clients == 1:
            rate = LOAD * float(np.median(rates[baseline, FULL_DEPTH]))
    return rows
