"""What encode_corpus.py is made of: documents, an encoder that travels, the folder of vectors, Ray."""

from leap.corpus.encoder import Encoded, TextEncoder
from leap.corpus.parts import Vectors, read_vectors

__all__ = ["Encoded", "TextEncoder", "Vectors", "read_vectors"]
