"""A mixed set of unseen texts of seven kinds, such as a rule has to tell apart in use.

sentences, passages   held-out lines of the training data (`leap.text.holdout`)
queries               of the retrieval sets
code                  blocks of Python source of the installed torch, whose version is pinned
words, names          single words, and names of two or three words, in the training data, held out themselves
languages             a list of our own: ten sentences in each of fifteen languages
"""

import gzip
import importlib.util
import json
import random
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from leap.errors import UsageError
from leap.text.holdout import held_out
from leap.text.sets import load_retrieval

LANGUAGES = Path(__file__).parent / "other_languages.txt"
QUERY_SETS = ("scifact", "cranfield", "cacm")
COUNTS = {
    "sentences": 900,
    "passages": 500,
    "queries": 500,
    "code": 450,
    "words": 300,
    "names": 200,
    "languages": 150,
}
WORD = re.compile(r"\b[a-z]{4,}\b")
# Not at the start of a sentence, where any word is capitalised.
NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]+(?: [A-Z][a-z]+){1,2}\b")
FILES_OF_CODE = 200
LONGEST_BLOCK = 2000  # characters


def mixed_texts(folder: Path, seed: int = 0, counts: dict[str, int] = COUNTS) -> dict[str, list[str]]:
    """Texts by kind.

    Args:
        folder: laid out as LEAP_DATA.
        seed: of the draws.
        counts: how many texts of each kind; fewer where there are fewer.

    Raises:
        UsageError: the folder lacks the training data or a retrieval set.
    """
    lines = {kind: list(train_lines(folder, kind)) for kind in ("sentences", "passages")}
    words, names = set(), set()
    for line in lines["sentences"]:
        words.update(WORD.findall(line))
        names.update(NAME.findall(line))
    queries = (load_retrieval(str(folder / "beir" / name)).queries.values() for name in QUERY_SETS)
    found: dict[str, Iterable[str]] = {
        "sentences": filter(held_out, lines["sentences"]),
        "passages": filter(held_out, lines["passages"]),
        "queries": (text for texts in queries for text in texts),
        "code": code_blocks(seed),
        "words": sorted(filter(held_out, words)),
        "names": sorted(filter(held_out, names)),
        "languages": LANGUAGES.read_text(encoding="utf-8").splitlines(),
    }
    return {kind: draw(found[kind], count, seed) for kind, count in counts.items()}


def held_out_texts(
    folder: Path, count: int, seed: int = 0, leave_out: Collection[str] = frozenset()
) -> list[str]:
    """Held-out training texts, a random draw from sentences and passages together.

    Args:
        folder: laid out as LEAP_DATA.
        count: how many texts; fewer where there are fewer.
        seed: of the draw.
        leave_out: texts that are not drawn, as those that something else is measured on.

    Raises:
        UsageError: the folder lacks the training data.
    """
    lines = (line for kind in ("sentences", "passages") for line in train_lines(folder, kind))
    return draw((line for line in lines if held_out(line) and line not in leave_out), count, seed)


def draw(texts: Iterable[str], count: int, seed: int) -> list[str]:
    """Up to `count` distinct texts, in random order."""
    distinct = list(dict.fromkeys(texts))
    return random.Random(seed).sample(distinct, min(count, len(distinct)))


def train_lines(folder: Path, kind: str) -> Iterator[str]:
    """The texts of `train/KIND-*.jsonl.gz`, in their order.

    Raises:
        UsageError: there is no such file.
    """
    files = sorted((folder / "train").glob(f"{kind}-*.jsonl.gz"))
    if not files:
        raise UsageError(
            f"--data: {str(folder)!r} has no train/{kind}-*.jsonl.gz: give the folder of the data"
        )
    for file in files:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)["text"]


def code_blocks(seed: int) -> list[str]:
    """Blocks of Python source, separated by blank lines, from some files of torch."""
    root = Path(importlib.util.find_spec("torch").origin).parent
    files = random.Random(seed).sample(sorted(root.rglob("*.py")), FILES_OF_CODE)
    blocks = (block.strip("\n") for file in files for block in file.read_text(errors="replace").split("\n\n"))
    return [block for block in blocks if 40 <= len(block) <= LONGEST_BLOCK]
