"""Evaluation of LEAP models: one module a question, each a function and a command, `python -m eval NAME`."""
