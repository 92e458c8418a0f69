"""Validation of texts: anything else is rejected with one line that names it."""

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

_REMEDY = "give a string, or a list or another iterable of strings"


def text_iterator(texts: Any) -> Iterator[Any]:
    """An iterator over texts that are not one string; what is in memory as a list is checked first.

    Raises:
        TypeError: no iterable of texts, such as a mapping or a table, whose keys would be encoded.
    """
    what = type(texts).__name__
    if isinstance(texts, bytes | bytearray | memoryview):
        raise TypeError(f"texts must be strings, got {what}: decode them first")
    if isinstance(texts, Mapping) or hasattr(texts, "columns"):
        raise TypeError(f"texts must not be a {what}, whose keys would be encoded: name the column of texts")
    if isinstance(texts, Set):
        raise TypeError(f"texts must not be a {what}, which has no order to give vectors in: make it a list")
    if isinstance(texts, list | tuple):
        check_strings(texts)
    try:
        return iter(texts)
    except TypeError:
        raise TypeError(f"texts must be strings, got {what}: {_REMEDY}") from None


def check_strings(texts: Iterable[Any], first: int = 0) -> None:
    """Raise a TypeError that names the first of `texts` that is not a string; counted from `first`."""
    for number, text in enumerate(texts, first):
        if not isinstance(text, str):
            raise TypeError(f"texts[{number}] must be a string, got {type(text).__name__}: {_REMEDY}")


def check_characters(texts: Iterable[str], first: int = 0) -> None:
    """Raise a ValueError that names the first of `texts` with half of a surrogate pair in it.

    They come from text cut in the middle of a UTF-16 pair, or decoded with "surrogateescape".
    """
    for number, text in enumerate(texts, first):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"texts[{number}] has a lone surrogate, {text[error.start]!a}, at character {error.start}: "
                "replace it, as by text.encode(errors='replace').decode()"
            ) from None
