"""What only encode_corpus.py needs: its input in shards, their embeddings, and the folder of vectors."""

from leap.corpus.store import Vectors, read_vectors

__all__ = ["Vectors", "read_vectors"]
