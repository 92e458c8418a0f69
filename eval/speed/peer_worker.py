"""The process in which a library is measured: it answers requests, JSON lines, until its input ends.

    python -m eval.speed.peer_worker NAME

Requests, each with the key `do`; the answer is one JSON object, `{"error": text}` where it cannot be done:

    load    sources: fields of `Sources`. -> load_s, seconds to import the library and load the model;
            loaded_mb, memory then.
    time    variant, batches: lists of texts, warm_up: leading batches not timed. -> ms: of each timed batch;
            layers: how many layers each text of these ran, or None.
    embed   variant, batches, path: .npy file for the (N, H) vectors of all texts. -> layers, as before.
    stream  variant, texts, and clients and seconds, or arrivals: see `eval.speed.peer_stream`. -> latencies,
            and of clients texts_per_s.
    memory  -> peak_mb, the most memory it ever had resident.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.speed.peer_runtimes import PEERS, Encode, Sources
from eval.speed.peer_stream import saturate, serve


class Worker:
    """Answers the requests.

    Args:
        name: of a peer in `PEERS`.
    """

    def __init__(self, name: str) -> None:
        self.peer = PEERS[name]
        self.variants: dict[str, Encode] = {}

    def load(self, sources: dict[str, Any]) -> dict[str, float]:
        """Import the library and load the model."""
        since = time.perf_counter()
        self.variants = self.peer.load(Sources(**sources))
        return {"load_s": time.perf_counter() - since, "loaded_mb": resident_mb("VmRSS")}

    def time(self, variant: str, batches: list[list[str]], warm_up: int) -> dict[str, Any]:
        """Encode batches one after the other; milliseconds of each."""
        encode = self.variants[variant]
        for texts in batches[:warm_up]:
            encode(texts)
        milliseconds, layers = [], []
        for texts in batches[warm_up:]:
            since = time.perf_counter()
            _, left = encode(texts)
            milliseconds.append(1000 * (time.perf_counter() - since))
            layers.append(left)
        return {"ms": milliseconds, "layers": _joined(layers)}

    def embed(self, variant: str, batches: list[list[str]], path: str) -> dict[str, Any]:
        """Encode batches and write the vectors of all texts to a file."""
        found = [self.variants[variant](texts) for texts in batches]
        np.save(path, np.concatenate([vectors for vectors, _ in found]), allow_pickle=False)
        return {"layers": _joined([left for _, left in found])}

    def stream(
        self,
        variant: str,
        texts: list[str],
        seconds: float = 0,
        clients: int = 0,
        arrivals: Sequence[float] = (),
    ) -> dict[str, Any]:
        """Encode texts as they come, from clients or at given moments."""
        encode = self.variants[variant]
        if not clients:
            return {"latencies": serve(encode, texts, arrivals)}
        latencies, rate = saturate(encode, texts, clients, seconds)
        return {"latencies": latencies, "texts_per_s": rate}

    def memory(self) -> dict[str, float]:
        """Peak resident memory."""
        return {"peak_mb": resident_mb("VmHWM")}


def _joined(layers: list[Any]) -> list[int] | None:
    return None if any(left is None for left in layers) else np.concatenate(layers).tolist()


def resident_mb(key: str) -> float:
    """Memory of this process in MB (10^6 bytes), `VmRSS` now or `VmHWM` at its peak.

    Linux keeps the peak by address space; elsewhere it is that of getrusage, and takes the place of both.
    getrusage is wrong on Linux: a process inherits the peak of the one that started it.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main() -> None:
    """Answer requests on standard input."""
    # Libraries print to standard output; keep that apart from the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except Exception as error:  # of any library; the client reports it
            words = (str(error).strip().splitlines() or [""])[0]
            answer = {"error": f"{type(error).__name__}: {words}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
