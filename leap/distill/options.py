"""The options of train_leap.py, and what is wrong with them before anything is loaded."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, make_dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from accelerate.tracking import get_available_trackers
from transformers import HfArgumentParser

from configuration_leap import LeapConfig
from leap.arguments import check_at_least, option
from leap.distill.objective import ObjectiveConfig
from leap.distill.recipes import PRESETS, RECIPES
from leap.distill.students import parse_layer_starts
from leap.files import check_place
from leap.publish.hub import check_push
from leap.text.reading import TextSource


@dataclass
class TrainOptions:
    """What a run is (the same again is the same run), and below that how it goes about it."""

    output_dir: Path = option("folder for the model and, during training, checkpoints/")
    preset: Literal["paper-l12"] | None = option(
        "other defaults for some options: paper-l12, the paper's protocol on 12 layers", None
    )

    teacher: str = option(
        "Hub id, folder, or package:NAME for model/ in a Python package",
        "sentence-transformers/all-MiniLM-L6-v2",
    )
    teacher_revision: str | None = option("commit of a teacher on the Hub; none: the newest", None)
    student: str | None = option(
        "model of the teacher's width that the student starts from; none: the teacher", None
    )
    student_revision: str | None = option("commit of a student on the Hub; none: the newest", None)
    student_layers: str | None = option(
        "one item per layer, such as 1,5,6: N copies layer N, Na,Nf are its two halves; none: all in order",
        None,
    )
    landing_layer: int | None = option(
        "layer at which converged texts continue; none: the last but one (paper: they leave the network)",
        None,
    )
    min_exit_layer: int | None = option(
        "first layer at which texts may leave; none: 1 (paper: half of the layers)", None
    )
    max_exit_layer: int | None = option("last layer at which texts may leave; none: 1 (paper: all)", None)
    exit_threshold: float | None = option("theta written to the config; none: full depth", None)

    data: list[str] = option(
        "Hub data set ids, or local files, folders or globs of json, jsonl, csv, txt, parquet (.gz too)",
        ["sentence-transformers/all-nli"],
    )
    split: str = option("split of a Hub data set, SUBSET/SPLIT if it has subsets", "train")
    text_columns: list[str] = option("columns whose strings are texts", ["text"])
    exclude_sources: list[str] = option(
        "leave out rows whose column `source` is one of these, for example because of their licence", []
    )
    max_texts: int | None = option("train on this many texts, drawn at random", None)
    max_length: int = option("tokens to which longer texts are truncated, by the finished model too", 256)
    streaming: bool = option("read a data set as it is downloaded, keeping only its tokens", False)

    recipe: Literal["leap", "paper"] = option("weights and shapes of all terms", "leap")
    full_depth_every: int = option("one text in this many also runs full depth, if converged texts land", 2)
    batch_tokens: int = option("most tokens per process and batch, including padding", 3072)
    batch_size: int = option("most texts per process and batch", 256)
    gradient_accumulation_steps: int = 1
    learning_rate: float = option("peak learning rate", 3e-4)
    word_embedding_rate: float = option(
        "learning rate of the word embeddings relative to the rest; 0 freezes them", 0.2
    )
    warmup: float = option("share of the run in which the learning rate rises, before it falls to 0", 0.05)
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    epochs: int = 1
    max_tokens: float | None = option("total tokens to train on; none: as many as --epochs have", None)
    mixed_precision: Literal["no", "bf16", "fp16"] = option("autocast", "no")
    save_dtype: Literal["float32", "float16"] = option("dtype of the saved weights", "float32")
    seed: int = 0

    resume: bool = option("continue from the newest intact checkpoint in --output_dir", False)
    checkpoint_minutes: float = option("minutes between checkpoints", 15.0)
    eval_data: str | None = option(
        "CSV with sentence1,sentence2,score, or a Hub id; evaluated during training", None
    )
    eval_steps: int = 1000
    log_steps: int = 20
    report_to: Literal["none", "tensorboard", "wandb"] = option("experiment tracker", "none")
    push_to_hub: str | None = option("OWNER/NAME on the Hub to upload the finished model to", None)
    cache_dir: Path = option("folder of the token cache", Path("~/.cache/leap"))
    workers: int = option("processes that prepare batches", 0)

    def sources(self) -> list[TextSource]:
        """The data sets asked for."""
        limit = self.max_texts if self.streaming else None
        columns, excluded = tuple(self.text_columns), tuple(self.exclude_sources)
        return [TextSource(name, self.split, columns, excluded, limit) for name in self.data]

    def given(self) -> dict[str, Any]:
        """What the run was given, by name, for its log; `run_identity` has the content."""
        return {
            "teacher": _without_folders(self.teacher),
            "student": self.student and _without_folders(self.student),
            "data": [Path(name).name or name for name in self.data],
            "exclude_sources": self.exclude_sources,
        }

    def identity(self) -> dict[str, Any]:
        """The options that make a run what it is, as JSON values."""
        return {name: value for name, value in asdict(self).items() if name not in NOT_OF_THE_RUN}


# How a run goes about it, and names of what is compared by its content.
NOT_OF_THE_RUN = (
    "output_dir preset teacher teacher_revision student student_revision data split text_columns "
    "exclude_sources max_texts streaming resume checkpoint_minutes eval_data eval_steps log_steps report_to "
    "push_to_hub cache_dir workers"
).split()

TERM_HELP = {
    "final": "weight of L_final",
    "alpha": "weight of L_inter (layer-wise alignment)",
    "beta": "weight of L_exit",
    "delta": "weight of L_contrast (in-batch similarities, KL)",
    "own_final": "weight of the student's own last layer against the teacher's, in L_exit",
    "penalty": "what L_exit asks of a cosine: the paper's sigmoid, or 1 - cosine",
    "tau": "cosine that the sigmoid asks for",
    "slope": "of the sigmoid",
    "first_exit_layer": "lowest layer in L_exit where there is no landing layer, counted from 1",
    "temperature": "of the softmax in L_contrast",
    "token_final": "weight of the token term at full depth",
    "token_exit": "weight of the token term on what exits give",
    "signal": "weight of the term that makes the exit rule's cosine tell how close an exit is to the teacher",
}
# Every option of the objective defaults to what the recipe says.
ObjectiveOptions = make_dataclass(
    "ObjectiveOptions",
    [
        (term.name, term.type | None, option(f"{TERM_HELP[term.name]}; none: the recipe's", None))
        for term in fields(ObjectiveConfig)
    ],
)


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(message)

    def read(self, argv: Sequence[str] | None) -> tuple[Any, ...]:
        *found, rest = self.parse_args_into_dataclasses(argv, return_remaining_strings=True)
        if rest:
            self.error(f"unknown arguments: {' '.join(rest)} (--help lists them)")
        return tuple(found)


def _without_folders(name: str) -> str:
    """A path without the folders of this machine; a Hub id as it is."""
    return Path(name).name if Path(name).is_absolute() else name


def fail(error: object) -> NoReturn:
    """End the program with one line."""
    raise SystemExit(f"train_leap.py: error: {error}")


def parse(description: str, argv: Sequence[str] | None = None) -> tuple[TrainOptions, ObjectiveConfig]:
    """Read and check the command line; what is wrong ends the program with one line."""
    parser = _Parser((TrainOptions, ObjectiveOptions), prog="train_leap.py", description=description)
    options, terms = parser.read(argv)
    if options.preset:
        parser.set_defaults(**PRESETS[options.preset])
        if options.student:
            parser.set_defaults(student_layers=None)  # those of the preset are the teacher's
        options, terms = parser.read(argv)
    said = {name: value for name, value in asdict(terms).items() if value is not None}
    objective = replace(RECIPES[options.recipe].objective, **said)
    try:
        check(options, objective)
    except ValueError as error:
        fail(error)
    options.cache_dir = options.cache_dir.expanduser()
    return options, objective


def check(options: TrainOptions, objective: ObjectiveConfig) -> None:
    """Raise a ValueError, naming the option and the remedy, for what is known to be wrong beforehand."""
    check_at_least(
        options, 1, "full_depth_every", "batch_size", "batch_tokens", "gradient_accumulation_steps"
    )
    check_at_least(options, 1, "epochs", "eval_steps", "log_steps", "max_texts", "max_tokens")
    check_at_least(options, 3, "max_length")  # [CLS], a token, [SEP]
    check_at_least(options, 0, "word_embedding_rate", "checkpoint_minutes")
    _require(options.learning_rate > 0, f"--learning_rate must be above 0, got {options.learning_rate}")
    _require(0 <= options.warmup < 1, f"--warmup is a share of the run in [0, 1), got {options.warmup}")
    _check_objective(objective)
    _require(
        options.batch_size >= objective.batch_needed,
        f"--batch_size must be at least {objective.batch_needed}: L_contrast compares texts",
    )
    if options.student_layers is not None:
        parse_layer_starts(options.student_layers)
    for source in options.sources():
        source.files()
    output = options.output_dir
    made = [*output.glob("checkpoints/step-*"), *output.glob("log.json"), *output.glob("model")]
    _require(
        options.resume or not made,
        f"--output_dir: {output} holds a run already: pass --resume to go on, or another folder",
    )
    tracker = options.report_to
    _require(
        tracker == "none" or tracker in map(str, get_available_trackers()),
        f"--report_to: {tracker} is not installed: pip install {tracker}, or leave it out",
    )
    if os.environ.get("RANK", "0") == "0":  # which alone writes
        check_place("--output_dir", output / "model")
        # Last, as it asks the Hub; and once for all processes, as the Hub rations this question.
        if options.push_to_hub is not None:
            check_push(options.push_to_hub, "--push_to_hub")


def _check_objective(objective: ObjectiveConfig) -> None:
    check_at_least(objective, 0, "final", "alpha", "beta", "delta", "own_final", "slope")
    check_at_least(objective, 0, "token_final", "token_exit", "signal")
    check_at_least(objective, 1, "first_exit_layer")
    _require(objective.temperature > 0, f"--temperature must be above 0, got {objective.temperature}")
    _require(-1 < objective.tau <= 1, f"--tau is a cosine in (-1, 1], got {objective.tau}")


def set_exit_rule(config: LeapConfig, options: TrainOptions, objective: ObjectiveConfig) -> None:
    """Write the exit rule asked for, or the recipe's, into a student's config, whose depth is known now.

    Raises:
        ValueError: a layer is out of the range that this depth leaves it, or a term has no layer to cover.
    """
    recipe, depth = RECIPES[options.recipe], config.num_hidden_layers
    landing, first, last = options.landing_layer, options.min_exit_layer, options.max_exit_layer
    if recipe.exit_layer is not None:
        _require(
            depth >= recipe.exit_layer + 2,
            f"--student_layers: {depth} are too few for a leap, which skips one: give at least "
            f"{recipe.exit_layer + 2}, or --recipe paper",
        )
        first = recipe.exit_layer if first is None else first
        if landing is None:
            landing = max(depth - recipe.landing_from_end, first + 2)  # to skip one layer at least
        last = max(first, recipe.exit_layer) if last is None else last
    config.landing_layer, config.min_exit_layer, config.max_exit_layer = landing, first, last
    config.exit_threshold = options.exit_threshold
    config.resolve_exit_rule()
    if landing is None:
        _require(
            objective.first_exit_layer < depth or not (objective.beta or objective.signal),
            f"--first_exit_layer must be in [1, {depth - 1}] for {depth} layers, got "
            f"{objective.first_exit_layer}",
        )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
