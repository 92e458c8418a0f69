"""The files that libraries other than torch's run, made from the checkpoints once for all of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from eval.encode import Encoder, find_model
from eval.peer_runtimes import Peer, Sources


@contextmanager
def sources_of(
    model: Encoder, teacher: Encoder, peers: Sequence[Peer], threads: int, keep: Path | None
) -> Iterator[dict[str, Sources]]:
    yield {
        name: Sources(str(Path(find_model(encoder.name)).resolve()), "", encoder.max_length, threads)
        for name, encoder in (("leap", model), ("teacher", teacher))
    }
