"""Texts to vectors in torch: loading, batching by length, exits."""
