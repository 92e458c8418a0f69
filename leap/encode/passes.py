"""How many texts a forward pass takes, for both encoders: without torch and without ONNX Runtime."""

from collections.abc import Iterator, Sequence

# For each thread: what layers make of many more tokens does not stay in a core's cache. Passages of 250
# tokens are encoded twice as fast as in batches of 32 or 64, sentences as fast or faster (one thread).
PASS_TOKENS = 512


def passes(lengths: Sequence[int], most: int, threads: int | None) -> Iterator[slice]:
    """Cut texts into forward passes.

    Args:
        lengths: tokens of each, falling.
        most: texts a pass.
        threads: that compute on a CPU; None, on an accelerator: tokens are no limit.
    """
    start = 0
    while start < len(lengths):
        fits = most if threads is None else max(1, PASS_TOKENS * threads // lengths[start])
        end = start + min(most, fits)
        yield slice(start, end)
        start = end
