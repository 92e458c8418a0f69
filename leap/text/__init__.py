"""Texts from files and the Hub, their tokens, and evaluation sets."""
