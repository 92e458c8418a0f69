"""LEAP outside of torch: ONNX files with the exit inside, and an encoder over them.

Encoding needs onnxruntime, tokenizers and numpy; only the export imports torch.
"""

from leap.runtime.encoder import Embeddings, LeapEncoder

__all__ = ["Embeddings", "LeapEncoder"]
