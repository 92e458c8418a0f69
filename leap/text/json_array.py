"""One JSON array, element by element: the json module alone would hold all of it in memory."""

import codecs
import json
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

CHUNK = 2**20  # bytes read at a time
LITERAL = 16  # characters; longer than any word of JSON, such as -Infinity


class FormatError(ValueError):
    """A file is not in the format of its suffix. The message gives the problem and remedy, not the file."""


class _Next(Enum):
    """What may come next in an array."""

    START, FIRST, ELEMENT, COMMA, NOTHING = range(5)


def without_mark(start: bytes) -> bytes:
    """The first bytes of a file without the byte order mark that some programs put before UTF-8.

    Raises:
        FormatError: they begin as UTF-16 does.
    """
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise FormatError("it is UTF-16: convert it, by iconv -f UTF-16 -t UTF-8")
    return start.removeprefix(codecs.BOM_UTF8)


def array_elements(
    read: Callable[[int], bytes], decode: Callable[[str, int], tuple[Any, int]]
) -> Iterator[tuple[int, Any]]:
    """The objects of an array, each with the line it starts on, counted from 1.

    Args:
        read: the file's; what it gives begins with an array.
        decode: `raw_decode` of a JSONDecoder.

    Raises:
        FormatError: it is no array of objects, or breaks off.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line, text, state, more = 1, "", _Next.START, True
    while more:
        raw = read(max(CHUNK, len(text)))  # twice as much as before where an element is longer than that
        more = bool(raw)
        text += decoder.decode(raw, final=not more)
        position = 0
        while True:
            start = position
            while position < len(text) and text[position] in " \t\r\n":
                position += 1
            line += text.count("\n", start, position)
            if position == len(text):
                break
            if text[position] in "[],":
                state = _after(state, text[position], line)
                position += 1
                continue
            if state not in (_Next.FIRST, _Next.ELEMENT) or text[position] != "{":
                raise FormatError(f"line {line} has {text[position : position + LITERAL]!r}, no object")
            try:
                element, end = decode(text, position)
            except json.JSONDecodeError as error:
                goes_on = error.msg.startswith("Unterminated") or error.pos > len(text) - LITERAL
                if more and goes_on:
                    break
                what = "it breaks off" if goes_on else f"not JSON: {error.msg}"
                raise FormatError(f"in the object that begins on line {line}: {what}") from error
            yield line, element
            line += text.count("\n", position, end)
            state, position = _Next.COMMA, end
        text = text[position:]
    if state is not _Next.NOTHING:
        raise FormatError("it breaks off: get it again, or leave it out")


def _after(state: _Next, mark: str, line: int) -> _Next:
    match state, mark:
        case _Next.START, "[":
            return _Next.FIRST
        case _Next.COMMA, ",":
            return _Next.ELEMENT
        case ((_Next.FIRST | _Next.COMMA), "]"):
            return _Next.NOTHING
    raise FormatError(f"line {line} has {mark!r} out of place, or an element that is no object")
