"""Sentence embeddings whose converged texts skip layers: `from leap import LeapEncoder`.

Nothing is imported before it is asked for: the encoder needs ONNX Runtime and no torch, training needs torch
and no ONNX Runtime.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leap.runtime import LeapEncoder

__all__ = ["LeapEncoder"]


def __getattr__(name: str) -> Any:
    if name == "LeapEncoder":
        from leap.runtime import LeapEncoder

        return LeapEncoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
