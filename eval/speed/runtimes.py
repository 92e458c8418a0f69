"""`LeapEncoder` in the form of `leap.encode.encoder`, or one line that says why it cannot run here."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from leap.encode.encoder import Encoding, find_model
from leap.errors import UsageError, first_line


class Encode(Protocol):
    """Texts to embeddings, not normalised, and exit layers."""

    def __call__(self, texts: Sequence[str], rule: Mapping[str, Any], batch_size: int) -> Encoding:
        """Encode.

        Args:
            texts: N texts.
            rule: `exit_threshold`, where it is not the config's.
            batch_size: texts a forward pass.
        """


def load_runtime(source: str, precision: str = "float32", threads: int | None = None) -> Encode:
    """An encoder over ONNX Runtime.

    Args:
        source: of the model, as for `leap.encode.encoder.find_model`.
        precision: "float32" or "int8".
        threads: to compute with in a call; None: all cores.

    Raises:
        UsageError: a package or a file that it needs is missing, or is of other weights.
    """
    try:
        # Here: not everybody who evaluates has ONNX Runtime.
        from leap.runtime import LeapEncoder
    except ImportError as error:
        raise UsageError(f"onnx: {first_line(error)}: pip install onnxruntime") from error
    try:
        encoder = LeapEncoder.from_pretrained(find_model(source), precision=precision, threads=threads)
    except (ValueError, OSError) as error:
        raise UsageError(f"onnx: {first_line(error)}") from error

    def encode(texts: Sequence[str], rule: Mapping[str, Any], batch_size: int) -> Encoding:
        embeddings, layers = encoder.encode(
            list(texts), batch_size, normalize_embeddings=False, return_exit_layers=True, **rule
        )
        return Encoding(np.asarray(embeddings), np.asarray(layers))

    return encode
