"""One row of a source: its text, id or number, or a one-line error that says what it has instead."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from leap.errors import UsageError
from leap.text.formats import Number, Values


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        where: the argument and the file, as errors name them, and what `number` counts, lines or rows.
        number: from 1.
        values: by column, of those asked for that the row has.
    """

    where: str
    number: int
    values: Values

    def refuse(self, message: str) -> UsageError:
        """The error that says what is wrong with this row."""
        return UsageError(f"{self.where} {self.number}: {message}")

    def text(self, column: str, *, required: bool = False) -> str:
        """The column's text; empty if it is null or missing in this row.

        Raises:
            UsageError: it holds something else, or it is blank though `required`.
        """
        value = self.values.get(column)
        if type(value) is not str:
            if value is not None:
                raise self.refuse(f"column {column!r} holds {_kind(value)}, no text")
            value = ""
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise self.refuse(f"column {column!r} holds half a surrogate pair: fix the text") from error
        if required and not value.strip():
            raise self.refuse(f"column {column!r} holds no text")
        return value

    def texts(self, columns: Sequence[str]) -> list[str]:
        """The texts of some columns, of which the row must have at least one."""
        if not any(column in self.values for column in columns):
            raise self.refuse(f"no column {' and no '.join(map(repr, columns))}")
        return [self.text(column) for column in columns]

    def id(self, column: str) -> str:
        """The column's text, or its number literal as spelled in the file.

        Raises:
            UsageError: there is none, or it is neither.
        """
        value = self.values.get(column)
        if value is None or value == "":
            raise self.refuse(f"column {column!r} holds no id")
        return str(value) if type(value) is Number else self.text(column)

    def number_of(self, column: str) -> float:
        """The column's number.

        Raises:
            UsageError: it holds none, or one that is not finite.
        """
        value = self.values.get(column)
        try:
            number = float("" if value is None or isinstance(value, bool) or "_" in str(value) else value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise self.refuse(f"column {column!r} needs a finite number, got {value!r}")
        return number


def _kind(value: object) -> str:
    return "a number" if isinstance(value, int | float | Number) else f"a {type(value).__name__}"
