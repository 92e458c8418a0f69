"""Texts that training could have drawn and did not, for thresholds and times.

    python -m eval held_out --logs results/train-*.json --count 10000 --output held-out.txt

A log of train_leap.py says which data it drew from, how many texts and by which seed: that draw is made
again, and what no run has seen is left. Run it where the training ran: the logs name the data by their paths.
"""

import argparse
import json
from itertools import chain
from pathlib import Path

import numpy as np

from leap.arguments import check_writable, positive
from leap.errors import UsageError
from leap.files import Written, atomic_write, checksum
from leap.text.reading import TextSource, iterate_texts
from leap.text.tokens import draw_texts


def held_out_texts(logs: list[Path], count: int, seed: int = 0) -> list[str]:
    """Draw texts of the training data that no run has drawn.

    Args:
        logs: files log.json of train_leap.py.
        count: how many texts to draw, without replacement.
        seed: of this draw.

    Raises:
        UsageError: a file is no such log, its data are not those it drew from, or too few texts are left.
    """
    candidates: dict[str, None] = {}  # a set that keeps its order
    seen: set[str] = set()
    for log in logs:
        texts, drawn = _texts_and_draw(log)
        candidates.update(dict.fromkeys(texts))
        seen.update(texts[index] for index in drawn)
    # Of one line, as the file has a text a line.
    left = [text for text in candidates if text not in seen and len(text.splitlines()) == 1]
    if len(left) < count:
        raise UsageError(f"--count: training left {len(left)} texts over: give that many or fewer")
    chosen = np.random.default_rng(seed).choice(len(left), count, replace=False)
    return [left[index] for index in chosen]


def _texts_and_draw(log: Path) -> tuple[list[str], np.ndarray]:
    """All texts of a run's data, in its order, and the indices that it trained on."""
    try:
        run = json.loads(log.read_text())["run"]
        sources = [TextSource(name, exclude=tuple(run["exclude_sources"])) for name in run["data"]]
        drawn, seed = run["texts"], run["seed"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--logs: {str(log)!r} is no log.json of train_leap.py: {error!r}") from error
    try:
        chunks = chain.from_iterable(iterate_texts(source) for source in sources)
        texts = list(chain.from_iterable(chunks))
    except ValueError as error:
        raise UsageError(f"--logs: the data of {str(log)!r} are not here: {error}") from error
    if len(texts) < drawn:
        raise UsageError(f"--logs: {str(log)!r} drew {drawn} texts, but its data hold {len(texts)} here")
    return texts, draw_texts(texts, drawn, seed)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("--logs", type=Path, nargs="+", required=True, help="log.json of each training run")
    parser.add_argument("--count", type=positive, default=10_000, help="texts to draw (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: %(default)s)")
    # Under another name: what `python -m eval` writes to args.output is the JSON of a measurement.
    parser.add_argument(
        "--output", dest="file", type=Path, required=True, help="text file to write, a text a line"
    )
    parser.set_defaults(output=None)


def run(args: argparse.Namespace) -> Written:
    """Run it as the command does."""
    check_writable("--output", args.file)
    texts = held_out_texts(args.logs, args.count, args.seed)
    with atomic_write(args.file) as file:
        file.writelines(f"{text}\n".encode() for text in texts)
    return Written(f"{args.file}: {len(texts)} texts, sha256 {checksum(texts)}")
