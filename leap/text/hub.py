"""The rows of a data set on the Hub, by `datasets`."""

import errno
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from datasets import config, load_dataset
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HfHubHTTPError

from leap.errors import UsageError, first_line
from leap.text.formats import Number
from leap.text.rows import Row

if TYPE_CHECKING:
    from leap.text.reading import Progress, TextSource


def hub_rows(
    source: "TextSource",
    columns: Sequence[str] | None,
    optional: Sequence[str],
    streaming: bool,
    progress: "Progress",
) -> Iterator[Row]:
    """The rows of a split, in order; arguments and errors as `TextSource.rows`."""
    subset, _, split = source.split.rpartition("/")
    place = f"{source.argument}: {source.name!r}, row"
    try:
        data = load_dataset(
            source.name, subset or None, split=split, streaming=streaming, revision=source.revision
        )
        names = data.column_names or list(next(iter(data), {}))
        missing = [name for name in columns or () if name not in names]
        if missing:
            have = ", ".join(map(repr, names))
            raise UsageError(f"{source.argument}: {source.name!r}: no column {missing[0]!r}; it has {have}")
        wanted = [name for name in names if columns is None or name in (*columns, *optional)]
        total = getattr((data.info.splits or {}).get(split), "num_examples", 0)
        for number, row in enumerate(data.select_columns(wanted), start=1):
            progress.rows, progress.share = number, number / total if total else 0.0
            yield Row(place, number, {name: _value(value) for name, value in row.items()})
    except UsageError:
        raise
    except (OSError, ValueError, DatasetsError, HfHubHTTPError) as error:
        raise UsageError(
            f"{source.argument}: cannot read {source.name!r} from the Hub: {_reason(error)}"
        ) from error


def _value(value: object) -> object:
    return Number(value) if type(value) is int else value


def _reason(error: Exception) -> str:
    """The underlying error: `datasets` wraps a reader's error in one that says little."""
    while isinstance(error, DatasetsError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.ENOSPC):
        cache = config.HF_DATASETS_CACHE
        return f"its cache {str(cache)!r} cannot be written ({error.strerror}): set HF_HOME to another folder"
    return first_line(error).rstrip(".")
