"""Render results/ and config.json: model_card.md, docs/evidence.md, .eval_results/ and README.md's table.

    python -m eval card            # write them
    python -m eval card --check    # exit status 1 where a file is not what the results say

The words are in templates/, every figure comes from results/.
"""

from dataclasses import dataclass
from pathlib import Path

import jinja2
from huggingface_hub import ModelCard

from eval.card import tables
from eval.card.entries import PAPER, TEACHER, entries, metadata, similarity
from eval.card.results import STS, TEACHER_STS, Results, read_results, training_sources
from leap.arguments import option
from leap.errors import NothingQualifiesError, UsageError
from leap.files import Written, atomic_write

TEMPLATES = Path(__file__).parent / "templates"
ENTRIES = ".eval_results"
# README.md has the card's table between these lines.
BEGIN, END = "<!-- table of model_card.md, by `python -m eval card` -->\n", "<!-- end of table -->\n"


def render(results: Results, readme: str | None = None) -> dict[str, str]:
    """Render everything.

    Args:
        results: see `read_results`.
        readme: the text of README.md, whose table is replaced; None: there is none.

    Returns:
        The texts, by their path relative to the tree.

    Raises:
        UsageError: training excluded an unknown source, README.md has no place for the table, or
            huggingface_hub is too old.
    """
    name = f"LEAP-MiniLM-L{results.config['num_hidden_layers']}"
    environment = _environment()
    environment.globals |= {
        "name": name,
        "teacher_name": TEACHER,
        "paper": PAPER,
        "repository": f"OWNER/{name}",  # `python -m leap.publish` puts the real one in its place
        "config": results.config | results.rule,
        "results": results,
        "sts": results.files[STS],
        "teacher": results.files[TEACHER_STS],
        "similarity": similarity(results),
        "retrieval": [content for _, content in results.matching("retrieval-*")],
        "sources": training_sources(results),
        "metadata": metadata(results, name).to_yaml(),
    }
    card = environment.get_template("card.md").render()
    files = {
        "model_card.md": ModelCard(card).content,  # which checks the YAML block
        "docs/evidence.md": environment.get_template("evidence.md").render(),
    }
    files |= {f"{ENTRIES}/{file}": content for file, content in entries(results).items()}
    if readme is not None:
        head, begin, rest = readme.partition(BEGIN)
        _, end, tail = rest.partition(END)
        if not (begin and end):
            raise UsageError(f"README.md: has no place for the table: put in {BEGIN!r} and {END!r}")
        files["README.md"] = head + BEGIN + environment.get_template("table.md").render() + END + tail
    return files


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,  # a name that is not there is an error, not an empty place
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "table": tables.table,
        "cell": tables.cell,
        "find": tables.find,
        "interval": tables.interval,
        "set_name": tables.set_name,
        "fastest": tables.fastest,
    }
    return environment


def stale(tree: Path, files: dict[str, str]) -> list[str]:
    """The files that are missing, differ, or are evaluation entries of no result."""
    found = [name for name, text in files.items()
             if not (tree / name).is_file() or (tree / name).read_text(encoding="utf-8") != text]  # fmt: skip
    there = [f"{ENTRIES}/{path.name}" for path in sorted((tree / ENTRIES).glob("*"))]
    return found + [name for name in there if name not in files]


@dataclass(kw_only=True)
class Options:
    """Options of this command."""

    folder: Path = option("the tree, with config.json and results/", Path("."))
    check: bool = option("write nothing; exit with status 1 if a file is stale", False)


def run(options: Options) -> Written:
    """Run it as the command does.

    Raises:
        NothingQualifiesError: with --check, a file is not what the results say.
    """
    tree, readme = options.folder, options.folder / "README.md"
    results = read_results(tree / "results", tree / "config.json")
    files = render(results, readme.read_text(encoding="utf-8") if readme.is_file() else None)
    old = stale(tree, files)
    if options.check:
        if old:
            raise NothingQualifiesError(f"not what results/ say: {', '.join(old)}: run `python -m eval card`")
        return Written(f"{len(files)} files are what results/ say")
    for name in old:
        if name not in files:
            (tree / name).unlink()
            continue
        with atomic_write(tree / name) as file:
            file.write(files[name].encode())
    return Written(f"written: {', '.join(old) or 'nothing, all files are what results/ say'}")
