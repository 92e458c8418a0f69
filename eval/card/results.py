"""config.json and the files of results/, read and checked: one model, one exit rule, one teacher."""

import csv
import json
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from eval.card.tables import find
from leap.errors import UsageError

Json = dict[str, Any]

STS, TEACHER_STS = "sts-stsb-test", "sts-stsb-test-teacher"
# What the card cannot do without, and how it is made.
REQUIRED = {
    STS: f"python -m eval sts --model . --output results/{STS}.json",
    TEACHER_STS: f"python -m eval sts --model TEACHER --output results/{TEACHER_STS}.json",
}
# Of models that were trained or made for them alone: only a teacher in them is one that the card knows.
OF_OTHER_MODELS = ("finetune-*", "survival")
RULE = ("exit_threshold", "min_exit_layer", "exit_patience", "landing_layer", "max_exit_layer")
# Files that are measured at the exit rule of config.json -> where in their figures they state it.
STATES_RULE = {
    "sts-*-test": "exits",
    "retrieval-*": "exit_rule",
    "front": "chosen_on.default",
    "latency-*": "",
    "peers-*": "",
}
SOURCES = Path(__file__).parent / "sources.csv"
NON_COMMERCIAL = ("NC", "non-commercial")  # in the licence of a source that restricts commercial use


@dataclass(frozen=True)
class Results:
    """What the card and the evidence are rendered from.

    Attributes:
        config: the content of the model's config.json.
        files: the content of every file of results/, by its name without ".json".
        pictures: the names of the pictures beside them.
    """

    config: Json
    files: dict[str, Json]
    pictures: frozenset[str]

    @property
    def rule(self) -> Json:
        """The exit rule of the config."""
        return {key: self.config.get(key) for key in RULE}

    @property
    def weights(self) -> str:
        """Fingerprint of the weights and the tokenizer that were measured."""
        return self.files[STS]["models"]["model"]["sha256"]

    def matching(self, pattern: str) -> list[tuple[str, Json]]:
        """Names and contents of the files whose name matches; a teacher's only if the pattern says so."""
        return [(name, content) for name, content in self.files.items() if fnmatch(name, pattern)
                and name.endswith("-teacher") == pattern.endswith("-teacher")]  # fmt: skip

    @property
    def runs(self) -> dict[str, Json]:
        """What each training run was given and how it was set, by its name."""
        return {
            name.removeprefix("train-"): log["given"] | log["run"] for name, log in self.matching("train-*")
        }


def read_results(folder: Path, config: Path) -> Results:
    """Read and check everything.

    Args:
        folder: results/.
        config: the model's config.json.

    Raises:
        UsageError: a required file is missing, a file is not JSON, or files are of other weights or of
            another exit rule, so that they cannot stand in one table. The message names file and remedy.
    """
    if not folder.is_dir():
        raise UsageError(f"--results: there is no folder {str(folder)!r}: give the one with the results")
    if not config.is_file():
        raise UsageError(f"--config: there is no file {str(config)!r}: give the model's config.json")
    for name, command in REQUIRED.items():
        if not (folder / f"{name}.json").is_file():
            raise UsageError(f"--results: {folder / name}.json is missing: make it with `{command}`")
    results = Results(
        config=_read(config),
        files={path.stem: _read(path) for path in sorted(folder.glob("*.json"))},
        pictures=frozenset(path.name for path in folder.iterdir() if path.suffix in (".png", ".svg")),
    )
    _check_weights(results)
    _check_rule(results)
    _check_twins(results)
    return results


def _read(path: Path) -> Json:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UsageError(f"--results: {path} is not JSON ({error}): make it again") from error


def _check_weights(results: Results) -> None:
    """Raise a UsageError unless all files are of the same weights, of the model or of the teacher."""
    teacher = results.files[TEACHER_STS]["models"]["model"]["sha256"]
    for name, content in results.files.items():
        if any(fnmatch(name, pattern) for pattern in OF_OTHER_MODELS):
            continue
        for role, model in content.get("models", {}).items():
            if role not in ("model", "teacher"):
                continue
            wanted = teacher if role == "teacher" or name.endswith("-teacher") else results.weights
            if model["sha256"] != wanted:
                first = TEACHER_STS if wanted == teacher else STS
                raise _again(results, name, f"is of other weights than {first}.json")


def _check_rule(results: Results) -> None:
    """Raise a UsageError unless the files that state an exit rule state the one of config.json."""
    for pattern, place in STATES_RULE.items():
        for name, content in results.matching(pattern):
            stated = find(content["figures"], place) or content["figures"]
            if any(stated[key] != value for key, value in results.rule.items() if key in stated):
                raise _again(results, name, f"is not of config.json's exit rule ({results.rule})")


def _check_twins(results: Results) -> None:
    """Raise a UsageError unless files of the model and of its teacher are of the same data."""
    for name, content in results.files.items():
        of_model = results.files.get(name.removesuffix("-teacher"))
        if of_model and of_model.get("data") != content.get("data"):
            raise _again(results, name, f"is of other data than {name.removesuffix('-teacher')}.json")


def _again(results: Results, name: str, fault: str) -> UsageError:
    command = results.files[name]["provenance"]["command"]
    return UsageError(f"--results: {name}.json {fault}: make it again with `{command}`, or remove it")


def training_sources(results: Results) -> list[Json]:
    """The sources that training texts were drawn from: `source`, `repository`, `licence`, `restricted`.

    Raises:
        UsageError: a run excluded a source that sources.csv does not know.
    """
    excluded = [set(run.get("exclude_sources") or ()) for run in results.runs.values()]
    never_used = set.intersection(*excluded) if excluded else set()
    with SOURCES.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    unknown = never_used - {row["source"] for row in rows}
    if unknown:
        raise UsageError(f"sources.csv: has no row for {', '.join(sorted(unknown))}, which training excluded")
    return [
        row | {"restricted": any(mark in row["licence"] for mark in NON_COMMERCIAL)}
        for row in rows
        if row["source"] not in never_used
    ]
