"""Which training texts are kept from training, to choose thresholds and to evaluate on."""

import hashlib


def held_out(text: str) -> bool:
    """Whether training leaves this text out: one in a hundred, decided by the text alone.

    So all programs agree without a list, in whatever order and from whatever files they read. The text is
    taken as it stands in its file, before anything is cut from it.
    """
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % 100 == 0
