"""Embeddings cached on disk for the next evaluation of the same model and texts.

Files are named by a checksum of the texts and of all that their embeddings depend on, and are plain arrays:
nothing in them is ever unpickled.
"""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from leap.encode.encoder import Encoder, encode
from leap.encode.exits import FloatArray
from leap.encode.paths import Paths, encode_paths
from leap.files import atomic_write, checksum, reading_cache

DEFAULT_CACHE = Path("~/.cache/leap")


def cached_embeddings(
    encoder: Encoder, texts: Sequence[str], cache: Path, *, batch_size: int = 64, progress: str | None = None
) -> FloatArray:
    """(N, H) float32: embeddings of N texts at full depth; arguments as of `leap.encode.encoder.encode`."""
    path = cache.expanduser() / f"{checksum([encoder.fingerprint(), *texts])}.npy"
    if path.is_file():
        with reading_cache("--cache", path):
            return np.load(path, allow_pickle=False)
    found = encode(encoder, texts, exit_threshold=None, batch_size=batch_size, progress=progress).embeddings
    with atomic_write(path) as file:
        np.save(file, found, allow_pickle=False)
    return found


def cached_paths(
    encoder: Encoder, texts: Sequence[str], cache: Path, *, batch_size: int = 64, progress: str | None = None
) -> Paths:
    """N texts on every path of a model; arguments as of `leap.encode.paths.encode_paths`."""
    config = encoder.model.config
    form = [config.landing_layer, config.exit_patience, list(config.exit_thresholds(-1.0))]
    path = cache.expanduser() / f"{checksum([encoder.fingerprint(), form, *texts])}.npz"
    if path.is_file():
        with reading_cache("--cache", path), np.load(path, allow_pickle=False) as stored:
            return Paths(**{field.name: stored[field.name] for field in fields(Paths)})
    found = encode_paths(encoder, texts, batch_size=batch_size, progress=progress)
    with atomic_write(path) as file:
        np.savez(file, allow_pickle=False, **vars(found))
    return found
