"""Command lines: options as a dataclass, one-line errors, and checks before hours of work."""

import argparse
import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser

from leap.errors import UsageError
from leap.files import check_writable

PICTURES = (".png", ".svg", ".pdf")


class OptionsParser(HfArgumentParser):
    """Parses a command line into a dataclass of options whose fields are made by `option`."""

    def __init__(self, options: type, **kwargs: Any) -> None:
        super().__init__(options, formatter_class=_DefaultsFormatter, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Print `message` without the usual usage text, and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {message} (--help lists the arguments)\n")

    def parse(self, argv: Sequence[str] | None = None) -> Any:
        """The options given in `argv`; None: the arguments of the process.

        Raises:
            UsageError: what the dataclass itself finds wrong.
            SystemExit: with status 2 and one line for what does not parse.
        """
        options = vars(self.parse_args(argv))
        return self.dataclass_types[0](**options)


class _DefaultsFormatter(argparse.HelpFormatter):
    """Appends the default to the help text, unless it is None, False or empty."""

    def _get_help_string(self, action: argparse.Action) -> str:
        nothing = (
            action.default is None or action.default is False or action.default in ([], argparse.SUPPRESS)
        )
        return f"{action.help}" if nothing or action.required else f"{action.help} (default: %(default)s)"


def option(help: str, default: Any = dataclasses.MISSING) -> Any:
    """A field of a dataclass of options; without a default it must be given. A default may be a list."""
    text = help.replace("%", "%%")  # argparse fills in names otherwise
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata={"help": text})
    return dataclasses.field(default=default, metadata={"help": text})


def check_at_least(options: Any, low: float, *names: str) -> None:
    """Raise a UsageError unless these fields are None, or at least `low` or lists of what is."""
    for name in names:
        values = getattr(options, name)
        for value in values if isinstance(values, list) else [values]:
            if value is not None and not value >= low:
                raise UsageError(f"--{name}: must be at least {low}, got {value}")


def check_share(options: Any, *names: str) -> None:
    """Raise a UsageError unless these fields are strictly between 0 and 1."""
    for name in names:
        value = getattr(options, name)
        if not 0 < value < 1:
            raise UsageError(f"--{name}: must be in (0, 1), got {value}")


def threshold(text: str | float | None, argument: str = "--exit_threshold") -> float | str | None:
    """Theta as given on a command line: a number, "none" for full depth, or "config".

    Raises:
        UsageError: none of these.
    """
    if text is None or text in ("config", "none"):
        return None if text == "none" else text
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"{argument}: must be a number, none or config, got {text!r}") from error


def check_plots(paths: Sequence[Path]) -> None:
    """Check before hours of work that pictures can be drawn and written.

    Raises:
        UsageError: as `check_writable`, an ending that names no kind of picture, or matplotlib is missing.
    """
    for path in paths:
        check_writable("--plot", path)
        if path.suffix not in PICTURES:
            raise UsageError(f"--plot: {str(path)!r} must end in one of {', '.join(PICTURES)}")
    if paths and importlib.util.find_spec("matplotlib") is None:  # found without loading it, which takes long
        raise UsageError("--plot: needs matplotlib: pip install matplotlib")
