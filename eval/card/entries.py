"""What the Hub reads from the card: its YAML block and the files of .eval_results."""

from collections.abc import Iterator
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from eval.card.results import STS, Json, Results, training_sources
from eval.card.tables import hub_id, set_name
from leap.errors import UsageError

TEACHER = "sentence-transformers/all-MiniLM-L6-v2"
PAPER = "2605.01058"
# Training sources that are a data set of the Hub -> its id. The others came from elsewhere.
TRAINED_ON = {"stsb-train": "mteb/stsbenchmark-sts"}
TAGS = ["sentence-transformers", "transformers", "bert", "feature-extraction", "early-exit", "distillation"]
STS_METRIC = ("semantic-similarity", "Semantic Similarity", "spearman_cosine", "Spearman of cosine")
RETRIEVAL_METRIC = ("information-retrieval", "Information Retrieval", "cosine_ndcg@10", "nDCG@10")


def similarity(results: Results) -> list[tuple[Json, Json | None]]:
    """The results on similarity sets, of the model and of its teacher, STS-B's first."""
    found = sorted(results.matching("sts-*-test"), key=lambda item: item[0] != STS)
    return [(content, results.files.get(f"{name}-teacher")) for name, content in found]


def metadata(results: Results, name: str) -> ModelCardData:
    """The card's YAML block; huggingface_hub checks it.

    Beside the fields of the Hub it has `leap`: the fingerprint of the weights and the exit rule that all
    figures are of, which `python -m leap.publish` holds against the files that it releases.
    """
    scores = [_eval_result(*score) for score in _scores(results)]
    used = {row["source"] for row in training_sources(results)}
    return ModelCardData(
        language="en",
        license="apache-2.0",
        library_name="sentence-transformers",  # the Hub's snippet then loads it as most people will
        pipeline_tag="sentence-similarity",
        tags=[*TAGS, f"arxiv:{PAPER}"],
        base_model=TEACHER,
        base_model_relation="finetune",  # the nearest of adapter, merge, quantized and finetune
        datasets=[id_ for source, id_ in TRAINED_ON.items() if source in used] or None,
        metrics=list(dict.fromkeys(score.metric_type for score in scores)),
        model_name=name,
        eval_results=scores,
        leap={"sha256": results.weights} | results.rule,
    )


def _scores(results: Results) -> Iterator[tuple[Json, tuple[str, ...], str, float]]:
    """Result, metric, setting in words and score, of everything that the YAML block lists."""
    for result, _ in similarity(results):
        figures = result["figures"]
        yield result, STS_METRIC, "full depth", figures["full_depth"]["spearman"]
        yield result, STS_METRIC, "default exit rule", figures["exits"]["spearman"]
    words = {
        "full_depth": "full depth",
        "exits": "default exit rule",
        "teacher_documents": f"queries with the default exit rule, documents by {TEACHER}",
    }
    for _, result in results.matching("retrieval-*"):
        for setting, text in words.items():
            if setting in result["figures"]["settings"]:
                yield result, RETRIEVAL_METRIC, text, result["figures"]["settings"][setting]["ndcg@10"]


def _eval_result(result: Json, metric: tuple[str, ...], setting: str, value: float) -> EvalResult:
    task_type, task_name, metric_type, metric_name = metric
    return EvalResult(
        task_type=task_type,
        task_name=task_name,
        metric_type=metric_type,
        metric_name=f"{metric_name}, {setting}",
        metric_value=round(value, 4),
        dataset_name=set_name(result["data"]),
        dataset_type=hub_id(result["data"]) or set_name(result["data"]),
        dataset_split=result["data"]["name"].partition("/")[2],
    )


def entries(results: Results) -> dict[str, str]:
    """Files of .eval_results by name: benchmarks of the Hub, unmodified, measured with the default rule.

    Retrieval over the teacher's documents is left out: no other model's score is of that kind.

    Raises:
        UsageError: huggingface_hub is too old.
    """
    try:
        from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    except ImportError as error:
        raise UsageError("card: needs a newer huggingface_hub: pip install -U huggingface_hub") from error

    files: dict[str, Any] = {}
    for result, metric, setting, value in _scores(results):
        benchmark = hub_id(result["data"])
        if benchmark is None or setting != "default exit rule":
            continue
        entry = EvalResultEntry(
            dataset_id=benchmark,
            task_id="default",
            value=round(value, 4),
            date=result["provenance"]["date"],
            notes=f"{metric[3]}, {setting}",
        )
        content = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)
        files[f"{benchmark.rpartition('/')[2]}.yaml"] = content
    return files
