"""The model card and the Hub's evaluation entries, rendered from results/ and config.json alone.

    python -m eval card --results results --output model_card.md

Writes the card and, in `.eval_results` beside it, one YAML file a benchmark. The words are in
card_template.md, the training sources in card_sources.csv; every figure comes from the results.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from eval.card import card_evidence, card_facts, card_front, card_paper, card_reliability, card_runtime
from eval.card.card_results import Json, Results, read_results
from leap.arguments import check_writable
from leap.errors import UsageError
from leap.files import Written, atomic_write

TEMPLATE = Path(__file__).parent / "card_template.md"
TEACHER = "sentence-transformers/all-MiniLM-L6-v2"
PAPER = "2605.01058"
ENTRIES = ".eval_results"


@dataclass(frozen=True)
class Card:
    """What was rendered.

    Attributes:
        text: of the model card, with its YAML block.
        entries: file name -> content of the YAML files in `.eval_results`.
    """

    text: str
    entries: dict[str, str]


def render(results: Results, repository: str | None = None) -> Card:
    """Render the card.

    Args:
        results: see `eval.card.card_results.read_results`.
        repository: the model's id on the Hub, for the snippets; None: a placeholder that says so.

    Raises:
        UsageError: training excluded an unknown source, or huggingface_hub is too old.
    """
    name = f"LEAP-MiniLM-L{results.config['num_hidden_layers']}"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        undefined=jinja2.StrictUndefined,  # a name that is not there is an error, not an empty place
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "score": "{:.4f}".format,
        "depth": "{:.2f}".format,
        "ms": "{:.2f}".format,
        "signed": "{:+.4f}".format,
        "count": "{:,}".format,
        "theta": card_facts.theta_text,
    }
    text = environment.get_template(TEMPLATE.name).render(
        metadata=_metadata(results, name).to_yaml(),
        name=name,
        teacher_name=TEACHER,
        paper=PAPER,
        repository=repository or f"OWNER/{name}",
        config=results.config,
        sts=results.sts,
        teacher=results.teacher,
        validation=results.validation,
        retrieval=results.retrieval,
        latency=results.latency,
        pareto=results.pareto,
        pictures=results.pictures,
        results=results,
        evidence=card_evidence,
        runtime=card_runtime,
        front=card_front.front(results),
        seeds=card_front.seeds(results),
        protocol=card_paper.protocol(results),
        reliability=card_reliability,
        compared=card_facts.comparisons(results),
        training=card_facts.training(results),
        sources=card_facts.sources(results),
        table=card_facts.table(results),
        facts=card_facts,
        measured=card_facts.measured(results),
        own=card_facts.over_own(results),
        year=results.sts["provenance"]["date"][:4],
    )
    return Card(text=ModelCard(text).content, entries=_entries(results))


def _metadata(results: Results, name: str) -> ModelCardData:
    """The card's YAML block; huggingface_hub checks it."""
    theta = results.config["exit_threshold"]
    rule = "exits, " + ("a theta a layer" if isinstance(theta, list) else f"theta {theta:g}")
    found = []
    for result in card_facts.similarity_results(results):
        figures = result["figures"]
        found += [
            _sts_result(result, "full depth", figures["full_depth"]["spearman"]),
            _sts_result(result, rule, figures["exits"]["spearman"]),
        ]
    for result in results.retrieval:
        settings = result["figures"]["settings"]
        names = {
            "full_depth": "full depth",
            "exit_queries": f"queries with {rule}",
            "exits": f"queries and documents with {rule}",
            "teacher_documents": f"queries with {rule}, documents by {TEACHER}",
        }
        found += [
            _retrieval_result(result, words, settings[key]["ndcg@10"])
            for key, words in names.items()
            if key in settings
        ]
    return ModelCardData(
        language="en",
        license="apache-2.0",
        # Its encode() is how most people will call the model; the Hub's snippet then loads it that way.
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=[
            "sentence-transformers",
            "transformers",
            "bert",
            "feature-extraction",
            "early-exit",
            "distillation",
            f"arxiv:{PAPER}",
        ],
        base_model=TEACHER,
        # The nearest of adapter, merge, quantized and finetune: it starts from its teacher's layers.
        base_model_relation="finetune",
        # To the Hub these are the sets trained on; those measured on are in the evaluation results.
        datasets=card_facts.trained_on(results),
        metrics=list(dict.fromkeys(result.metric_type for result in found)),
        model_name=name,
        eval_results=found,
    )


def _sts_result(result: Json, words: str, value: float) -> EvalResult:
    return EvalResult(
        task_type="semantic-similarity",
        task_name="Semantic Similarity",
        metric_type="spearman_cosine",
        metric_name=f"Spearman of cosine, {words}",
        metric_value=round(value, 4),
        **_dataset(result),
    )


def _retrieval_result(result: Json, words: str, value: float) -> EvalResult:
    return EvalResult(
        task_type="information-retrieval",
        task_name="Information Retrieval",
        metric_type="cosine_ndcg@10",
        metric_name=f"nDCG@10, {words}",
        metric_value=round(value, 4),
        **_dataset(result),
    )


def _dataset(result: Json) -> dict[str, str]:
    data = result["data"]
    name = card_facts.set_name(data)
    return {
        "dataset_name": name,
        "dataset_type": card_facts.hub_id(data) or name,
        "dataset_split": card_facts.split(data),
    }


def _entries(results: Results) -> dict[str, str]:
    """One file for each benchmark of the Hub that the model was measured on as it is, with exits.

    Retrieval over the teacher's documents is left out: no other model's score on the set is of that kind.
    """
    try:
        from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    except ImportError as error:
        raise UsageError(
            "card: needs a newer huggingface_hub: pip install --upgrade huggingface_hub"
        ) from error

    found = [
        (result, result["figures"]["exits"]["spearman"], "Spearman of cosine")
        for result in card_facts.similarity_results(results)
    ]
    found += [
        (result, result["figures"]["settings"]["exits"]["ndcg@10"], "nDCG@10")
        for result in card_facts.over_own(results)
    ]
    files = {}
    for result, value, metric in found:
        benchmark = card_facts.hub_id(result["data"])
        if benchmark is None:
            continue
        theta = card_facts.theta_text(results.config["exit_threshold"])
        entry = EvalResultEntry(
            dataset_id=benchmark,
            task_id="default",
            value=round(value, 4),
            date=result["provenance"]["date"],
            notes=f"{metric}, {card_facts.split(result['data'])} split; early exits, theta {theta}",
        )
        content = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)
        files[f"{benchmark.rpartition('/')[2]}.yaml"] = content
    return files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="folder of results (default: %(default)s)"
    )
    parser.add_argument(
        "--config", type=Path, default=Path("config.json"), help="of the model (default: %(default)s)"
    )
    parser.add_argument(
        "--repository", help="the model's id on the Hub, for the snippets (default: a placeholder)"
    )
    # Under another name: what `python -m eval` writes to args.output is the JSON of a measurement.
    parser.add_argument(
        "--output",
        dest="card",
        type=Path,
        default=Path("model_card.md"),
        help="Markdown file to write (default: %(default)s)",
    )
    parser.set_defaults(output=None)


def run(args: argparse.Namespace) -> Written:
    """Run it as the command does."""
    check_writable("--output", args.card)
    card = render(read_results(args.results, args.config), args.repository)
    files = {args.card: card.text} | {
        args.card.parent / ENTRIES / name: content for name, content in card.entries.items()
    }
    for path, content in files.items():
        with atomic_write(path) as file:
            file.write(content.encode())
    return Written("written: " + ", ".join(map(str, files)))
