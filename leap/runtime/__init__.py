"""LEAP outside of torch: ONNX files with the exits, and an encoder that runs them.

Encoding needs onnxruntime, tokenizers and numpy; only `runtime="torch"` imports torch.
"""

from leap.runtime.encoder import RUNTIMES, LeapEncoder

__all__ = ["RUNTIMES", "LeapEncoder"]
