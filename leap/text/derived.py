"""Short texts and code to train on beside sentences.

    python -m leap.text.derived --data texts/ --output derived.jsonl

Search boxes send single words, names and queries of two to four words, and encoders meet source code; sets of
sentences hold none of them. Words, names and spans are drawn from the sentences at hand, code from the Python
standard library (PSF licence) of the running interpreter.
"""

import json
import random
import re
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from leap.arguments import OptionsParser, option
from leap.errors import UsageError
from leap.files import atomic_write, check_writable
from leap.text.holdout import held_out
from leap.text.reading import TextSource, iterate_texts

WORD = re.compile(r"[^\W\d_][\w'-]*")
# Capitalised words in a row, and not at the start of a sentence, where any word is capitalised.
NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]+(?: (?:of |de |van )?[A-Z][a-z]+){1,3}")
CODE_CHARACTERS = range(60, 1200)  # of a block: shorter ones say nothing, longer ones are cut anyway


@dataclass
class DeriveOptions:
    """Options of the command."""

    data: list[str] = option("sentences: files, folders, globs, Hub data set ids")
    output: Path = option("JSONL file to write, with columns text and source")
    short: int = option("how many words, names and queries, a third each", 250_000)
    code: int = option("how many blocks of Python source", 60_000)
    exclude_sources: list[str] = option("leave out rows whose column `source` is one of these", [])
    seed: int = option("random seed", 0)


def short_texts(sentences: Iterable[str], rng: random.Random) -> Iterator[tuple[str, str]]:
    """(kind, text): from each sentence a word, a name if it has one, and a query of 2 to 4 words.

    Args:
        sentences: to draw from.
        rng: draws.
    """
    for sentence in sentences:
        words = WORD.findall(sentence)
        if len(words) < 5:
            continue
        yield "words", rng.choice(words)
        yield from (("names", name) for name in NAME.findall(sentence)[:1])
        length = rng.randint(2, 4)
        start = rng.randrange(len(words) - length + 1)
        query = words[start : start + length]
        if min(len(query[0]), len(query[-1])) > 3:  # nobody searches for "of the result which"
            yield "queries", " ".join(query).lower() if rng.random() < 0.7 else " ".join(query)


def code_blocks(folder: Path, rng: random.Random) -> Iterator[str]:
    """Blocks of lines between empty lines, from the Python files below a folder, files in random order."""
    files = sorted(folder.rglob("*.py"))
    rng.shuffle(files)
    for file in files:
        if "site-packages" in file.parts:
            continue
        for block in re.split(r"\n\s*\n", file.read_text(encoding="utf-8", errors="ignore")):
            block = block.strip("\n")
            if len(block) in CODE_CHARACTERS:
                yield block


def derive(sentences: Iterable[str], library: Path, options: DeriveOptions) -> Iterator[dict[str, str]]:
    """Rows of text and source without duplicates, up to the number of each kind that the options ask for."""
    rng = random.Random(options.seed)
    wanted = dict.fromkeys(("words", "names", "queries"), options.short // 3)
    seen: set[str] = set()
    for kind, text in short_texts(sentences, rng):
        # Held out in lower case, too: tokenizers without case take both for the same text.
        if wanted[kind] and text not in seen and not held_out(text.lower()):
            seen.add(text)
            wanted[kind] -= 1
            yield {"text": text, "source": kind}
        if not any(wanted.values()):
            break
    for block in islice(dict.fromkeys(code_blocks(library, rng)), options.code):
        yield {"text": block, "source": "python-stdlib"}


def main() -> None:
    """Read the options, write the file."""
    name = "python -m leap.text.derived"
    try:
        write(OptionsParser(DeriveOptions, prog=name, description=__doc__.splitlines()[0]).parse())
    except UsageError as error:
        raise SystemExit(f"{name}: error: {error}") from error


def write(options: DeriveOptions) -> None:
    """Derive the texts and write them.

    Raises:
        UsageError: a source cannot be read as it is, or the file cannot be written.
    """
    check_writable("--output", options.output)
    sources = [TextSource(name, exclude=tuple(options.exclude_sources)) for name in options.data]
    for source in sources:
        source.check_apart(options.output)
    sentences = (text for source in sources for texts in iterate_texts(source, False) for text in texts)
    library = Path(sysconfig.get_path("stdlib"))
    with atomic_write(options.output) as file:
        for row in derive(sentences, library, options):
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    main()
