"""The command line of train_leap.py, and what is wrong with it before anything is loaded."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import NoReturn

from leap.distill.objective import ObjectiveConfig
from leap.distill.recipes import PRESETS, RECIPES
from leap.distill.students import parse_layer_starts
from leap.publish.hub import check_push
from leap.text.tokens import TextSource

TERM_HELP = {
    "alpha": "weight of L_inter (layer-wise alignment)",
    "beta": "weight of L_exit",
    "delta": "weight of L_contrast (in-batch similarities, KL)",
    "own_final": "weight of the student's own last layer against the teacher's, in L_exit",
    "tau": "cosine that the exit term asks for",
    "slope": "of the exit term's sigmoid, at the end",
    "slope_start": "of that sigmoid at the start; it rises linearly to --slope",
    "linear": "weight of 1 - cos beside the sigmoid in L_exit",
    "layer_weights": "w_l of the exit term",
    "first_exit_layer": "lowest layer in the exit term, counted from 1",
    "temperature": "of the softmax in L_contrast",
    "relation": "weight of the mixed-depth relational term",
    "signal": "weight of the term that makes the exit rule's cosine tell how good a layer is for a text",
}


def build_parser(description: str) -> argparse.ArgumentParser:
    """The parser; every option of the objective defaults to what --recipe says."""
    parser = argparse.ArgumentParser(
        prog="train_leap.py",
        description=description,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32, width=110),
    )
    parser.add_argument(
        "--preset",
        choices=sorted(PRESETS),
        help="other defaults for some options: paper-l12, the paper's protocol, twice as deep as a teacher "
        "of 6 layers (or of the layers of --student)",
    )
    add = parser.add_argument_group("models").add_argument
    add(
        "--teacher",
        default="sentence-transformers/all-MiniLM-L6-v2",
        metavar="MODEL",
        help="Hub id, folder, or package:NAME for model/ in a Python package (default: %(default)s)",
    )
    add("--teacher_revision", metavar="REV", help="commit of a teacher on the Hub (default: its newest)")
    add("--student", metavar="MODEL", help="whose layers the student starts from (default: the teacher)")
    add("--student_revision", metavar="REV", help="commit of a student on the Hub (default: its newest)")
    add(
        "--student_layers",
        metavar="START",
        help="one item a layer: N copies layer N, N~ copies it near the identity, N~0.3 less near, Na,Nf its "
        "two halves, tN the teacher's layer N; for example 1,3,6,6~,6~,6~ (default: all layers in order)",
    )
    add(
        "--train_word_embeddings", action="store_true", help="train the word embeddings too (default: frozen)"
    )
    add(
        "--frozen_layers",
        type=int,
        default=0,
        metavar="N",
        help="keep the N lowest layers as they start, to train a tail on them (default: %(default)s)",
    )

    add = parser.add_argument_group("data").add_argument
    add(
        "--data",
        nargs="+",
        default=["sentence-transformers/all-nli"],
        metavar="TEXTS",
        help="Hub data set ids, or local files, folders or globs of json, jsonl, csv, txt, parquet (.gz too)",
    )
    add(
        "--split",
        default="train",
        help="split of a Hub data set, SUBSET/SPLIT where it has subsets (default: %(default)s)",
    )
    add(
        "--text_columns",
        nargs="+",
        default=["text"],
        metavar="COLUMN",
        help="columns of texts (default: text)",
    )
    add(
        "--exclude_sources",
        nargs="*",
        default=[],
        metavar="NAME",
        help="leave out rows whose column `source` is one of these, for their licence say",
    )
    add(
        "--max_texts",
        type=int,
        metavar="N",
        help="train on N texts, drawn from all (of a stream, the first N of each data set)",
    )
    add(
        "--max_length",
        type=int,
        default=128,
        metavar="TOKENS",
        help="longer texts are cut (default: %(default)s)",
    )
    add(
        "--streaming",
        action="store_true",
        help="read a data set as it is downloaded, keeping only its tokens",
    )
    add(
        "--cache_dir",
        type=Path,
        default=Path("~/.cache/leap"),
        metavar="FOLDER",
        help="of tokens and teacher embeddings (default: %(default)s)",
    )
    add(
        "--cache_teacher",
        action="store_true",
        help="embed all texts by the teacher once, for many epochs or runs (needs --alpha 0)",
    )

    add = parser.add_argument_group("objective").add_argument
    add(
        "--recipe",
        choices=sorted(RECIPES),
        default="leap",
        help="weights of all terms (default: %(default)s)",
    )
    for field in fields(ObjectiveConfig):
        kind = {"layer_weights": str, "first_exit_layer": int}.get(field.name, float)
        choices = ("uniform", "linear") if field.name == "layer_weights" else None
        values = ", ".join(f"{name} {getattr(recipe, field.name)}" for name, recipe in RECIPES.items())
        add(f"--{field.name}", type=kind, choices=choices, help=f"{TERM_HELP[field.name]} ({values})")

    add = parser.add_argument_group("optimisation").add_argument
    add(
        "--batch_size",
        type=int,
        default=128,
        metavar="N",
        help="texts a process and step (default: %(default)s)",
    )
    add("--gradient_accumulation_steps", type=int, default=1, metavar="N", help="(default: %(default)s)")
    add("--learning_rate", type=float, default=5e-4, metavar="LR", help="highest (default: %(default)s)")
    add(
        "--schedule",
        choices=("cosine", "linear"),
        default="cosine",
        help="of the learning rate (default: %(default)s)",
    )
    add("--warmup", type=float, default=0.05, metavar="SHARE", help="of all steps (default: %(default)s)")
    add("--weight_decay", type=float, default=0.01, help="(default: %(default)s)")
    add("--max_grad_norm", type=float, default=1.0, metavar="NORM", help="(default: %(default)s)")
    add("--epochs", type=int, default=1, metavar="N", help="(default: %(default)s)")
    add("--max_steps", type=int, metavar="N", help="optimizer steps, when fewer than --epochs make")
    add(
        "--mixed_precision",
        choices=("no", "bf16", "fp16"),
        default="no",
        help="autocast (default: %(default)s)",
    )
    add("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    add(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="processes that prepare batches (default: %(default)s)",
    )

    add = parser.add_argument_group("output").add_argument
    add(
        "--output_dir",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="gets the model, and checkpoints/ meanwhile",
    )
    add(
        "--exit_threshold",
        type=float,
        metavar="THETA",
        help="written to the config (default: none, full depth)",
    )
    add(
        "--min_exit_layer",
        type=int,
        metavar="LAYER",
        help="written to the config (default: half of the layers)",
    )
    add("--checkpoint_steps", type=int, default=500, metavar="N", help="(default: %(default)s)")
    add("--resume", action="store_true", help="go on from the newest whole checkpoint in --output_dir")
    add(
        "--eval_data",
        metavar="CSV",
        help="sentence1,sentence2,score, or a Hub id; evaluated as training goes",
    )
    add("--eval_steps", type=int, default=500, metavar="N", help="(default: %(default)s)")
    add("--log_steps", type=int, default=20, metavar="N", help="(default: %(default)s)")
    add(
        "--report_to",
        choices=("none", "tensorboard", "wandb"),
        default="none",
        help="tracker (default: %(default)s)",
    )
    add(
        "--save_dtype",
        choices=("float32", "float16"),
        default="float32",
        help="of the saved weights (default: %(default)s)",
    )
    add(
        "--save_max_length",
        type=int,
        default=256,
        metavar="TOKENS",
        help="to which sentence-transformers cuts texts of the saved model (default: %(default)s)",
    )
    add("--push_to_hub", metavar="OWNER/NAME", help="upload the finished model to this repository of the Hub")
    return parser


def objective_config(args: argparse.Namespace) -> ObjectiveConfig:
    """The recipe with what was said on the command line in its place."""
    said = {field.name: getattr(args, field.name) for field in fields(ObjectiveConfig)}
    return replace(RECIPES[args.recipe], **{name: value for name, value in said.items() if value is not None})


def text_sources(args: argparse.Namespace) -> list[TextSource]:
    """The data sets asked for."""
    limit = args.max_texts if args.streaming else None
    return [
        TextSource(name, args.split, tuple(args.text_columns), tuple(args.exclude_sources), limit)
        for name in args.data
    ]


def check(args: argparse.Namespace) -> None:
    """Raise a ValueError, naming the argument and the remedy, for what is known to be wrong beforehand."""
    for name in (
        "batch_size",
        "gradient_accumulation_steps",
        "epochs",
        "checkpoint_steps",
        "eval_steps",
        "log_steps",
    ):
        _require(getattr(args, name) >= 1, f"--{name} must be at least 1, got {getattr(args, name)}")
    for name in ("max_texts", "max_steps"):
        value = getattr(args, name)
        _require(
            value is None or value >= 1,
            f"--{name} must be at least 1, got {value}: leave it out for no limit",
        )
    _require(
        args.max_length >= 3,
        f"--max_length must be at least 3 ([CLS], a token, [SEP]), got {args.max_length}",
    )
    _require(args.learning_rate > 0, f"--learning_rate must be above 0, got {args.learning_rate}")
    _require(0 <= args.warmup < 1, f"--warmup is a share of all steps in [0, 1), got {args.warmup}")
    _require(
        not (args.frozen_layers and args.train_word_embeddings),
        "--frozen_layers freezes the embeddings too: leave out --train_word_embeddings",
    )
    config = objective_config(args)
    _check_objective(config)
    _require(
        args.batch_size >= config.batch_needed,
        f"--batch_size must be at least {config.batch_needed}: L_contrast, relation and signal compare texts",
    )
    _require(
        not (args.cache_teacher and config.alpha),
        f"--cache_teacher keeps the last layer, but L_inter (alpha {config.alpha}) needs all: pass --alpha 0",
    )
    if args.student_layers is not None:
        depth = len(parse_layer_starts(args.student_layers))
        _require(
            config.first_exit_layer < depth,
            f"--first_exit_layer must be in [1, {depth - 1}], got {config.first_exit_layer}",
        )
    for source in text_sources(args):
        source.files()
    checkpoints = args.output_dir / "checkpoints"
    _require(
        args.resume or not any(checkpoints.glob("step-*")),
        f"--output_dir: {args.output_dir} holds a run already: pass --resume to go on, or another folder",
    )
    # Last, as it asks the Hub; and once for all processes, as the Hub rations this question.
    if args.push_to_hub is not None and os.environ.get("RANK", "0") == "0":
        check_push(args.push_to_hub, "--push_to_hub")


def _check_objective(config: ObjectiveConfig) -> None:
    for name in (
        "alpha",
        "beta",
        "delta",
        "own_final",
        "linear",
        "relation",
        "signal",
        "slope",
        "slope_start",
    ):
        _require(getattr(config, name) >= 0, f"--{name} must not be negative, got {getattr(config, name)}")
    _require(config.temperature > 0, f"--temperature must be above 0, got {config.temperature}")
    _require(-1 < config.tau <= 1, f"--tau is a cosine in (-1, 1], got {config.tau}")
    _require(config.first_exit_layer >= 1, f"--first_exit_layer counts from 1, got {config.first_exit_layer}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def fail(error: Exception) -> NoReturn:
    """End the program with one line."""
    raise SystemExit(f"train_leap.py: error: {error}")


def parse(description: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read and check the command line; what is wrong ends the program with one line."""
    parser = build_parser(description)
    args = parser.parse_args(argv)
    if args.preset:
        parser.set_defaults(**PRESETS[args.preset])
        if args.student:
            parser.set_defaults(student_layers=None)  # those of the preset are the teacher's
        args = parser.parse_args(argv)
    try:
        check(args)
    except ValueError as error:
        fail(error)
    args.cache_dir = args.cache_dir.expanduser()
    return args
