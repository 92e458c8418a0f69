"""Client of `eval.speed.peer_worker`: start a library's process, send requests, report how it ended."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.speed.peer_runtimes import PEERS, Peer, Sources
from leap.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


def missing_packages(peer: Peer) -> list[str]:
    """What to install before `peer` can be measured; empty if it can."""
    return [what for name, what in peer.packages.items() if importlib.util.find_spec(name) is None]


class PeerProcess:
    """A library in its own process, with its model loaded.

    A context manager: the process ends with the block.

    Args:
        name: of a peer in `PEERS`.
        sources: of its model.

    Raises:
        UsageError: the model could not be loaded.
    """

    def __init__(self, name: str, sources: Sources) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")
        threads = str(sources.threads)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "eval.speed.peer_worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            text=True,
            env=os.environ
            | {
                # Limits every thread pool of the library.
                "OMP_NUM_THREADS": threads,
                "MKL_NUM_THREADS": threads,
                "RAYON_NUM_THREADS": threads,
                "TOKENIZERS_PARALLELISM": "true" if sources.threads > 1 else "false",
                "HF_HUB_OFFLINE": "1",  # the models are local folders; do not wait for a network
            },
        )
        try:
            self.loaded: dict[str, float] = self.ask("load", sources=asdict(sources))
        except BaseException:
            self.close()
            raise

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for the answer; see `eval.speed.peer_worker`.

        Raises:
            UsageError: it could not be done; the message names the peer and what its library said.
        """
        try:
            print(json.dumps({"do": what, **arguments}), file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        found = json.loads(answer) if answer else {"error": self._last_words()}
        if "error" in found:
            raise UsageError(f"--peers: {self.name} cannot {what}: {found['error']}: fix it or leave it out")
        return found

    def _last_words(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines() or ["it said nothing"]
        return f"its process ended with status {self._process.returncode}: {lines[-1]}"

    def close(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError):  # what a process that has died did not read
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.terminate()
        self._process.wait()
        self._errors.close()

    def __enter__(self) -> "PeerProcess":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def check_names(names: list[str]) -> None:
    """Raise a UsageError for an unknown peer."""
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise UsageError(f"--peers: there is no {unknown[0]!r}: choose from {', '.join(PEERS)}")
