"""The parts of encode_corpus.py: documents, a picklable encoder, the folder of vectors, Ray."""

from leap.corpus.encoder import Encoded, TextEncoder
from leap.corpus.parts import Vectors, read_vectors

__all__ = ["Encoded", "TextEncoder", "Vectors", "read_vectors"]
