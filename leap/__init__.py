"""Sentence embeddings in which converged texts skip layers: `from leap import LeapEncoder`.

Nothing is imported before it is asked for: the encoder needs ONNX Runtime and no torch, training needs torch
and no ONNX Runtime.
"""

import os
from typing import TYPE_CHECKING, Any

# ONNX Runtime looks up a host of its maker's and writes an id of the device ten seconds after its first
# session, from 1.29 on. It reads this when it is imported, so it stands before every import of it here.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from leap.runtime import LeapEncoder

__all__ = ["LeapEncoder"]


def __getattr__(name: str) -> Any:
    if name == "LeapEncoder":
        from leap.runtime import LeapEncoder

        return LeapEncoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
