"""LEAP outside of torch: ONNX files with the exits, and an encoder that runs them.

Encoding needs onnxruntime, tokenizers and numpy; torch and transformers are imported only by `runtime="torch"`.
"""

from runtime.encoder import RUNTIMES, LeapEncoder

__all__ = ["RUNTIMES", "LeapEncoder"]
