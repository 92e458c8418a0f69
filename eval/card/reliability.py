"""docs/reliability.md from results/ alone: what was tried to break the model, and what came of it.

python -m eval reliability --output docs/reliability.md
"""

import argparse
import json
from pathlib import Path

import jinja2

from eval.card import card_reliability
from eval.card.card_results import Json, Results, read_results
from leap.arguments import check_writable
from leap.files import Written, atomic_write

TEMPLATE = Path(__file__).parent / "reliability_template.md"
# Of tests/leap/text/test_files.py, which holds it to its own number.
DAMAGES = 45


def render(results: Results, survival: Json | None = None) -> str:
    """The page.

    Args:
        results: see `eval.card.card_results.read_results`.
        survival: figures of `eval.stress.survival`, which is of a tiny model and so none of those results.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["count"] = "{:,}".format
    return environment.get_template(TEMPLATE.name).render(
        results=results, reliability=card_reliability, damages=DAMAGES, survival=survival
    )


def render_folder(folder: Path, config: Path) -> str:
    """The page of the results in `folder`.

    Raises:
        UsageError: as `eval.card.card_results.read_results`.
    """
    results, survival = read_results(folder, config), folder / "survival.json"
    return render(results, json.loads(survival.read_text())["figures"] if survival.is_file() else None)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="folder of results (default: %(default)s)"
    )
    parser.add_argument(
        "--config", type=Path, default=Path("config.json"), help="of the model (default: %(default)s)"
    )
    parser.add_argument(
        "--output",
        dest="page",
        type=Path,
        default=Path("docs/reliability.md"),
        help="Markdown file to write (default: %(default)s)",
    )
    parser.set_defaults(output=None)


def run(args: argparse.Namespace) -> Written:
    """Run it as the command does."""
    check_writable("--output", args.page)
    with atomic_write(args.page) as file:
        file.write(render_folder(args.results, args.config).encode())
    return Written(f"written: {args.page}")
