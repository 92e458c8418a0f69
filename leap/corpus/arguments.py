"""The command line of encode_corpus.py, and what is wrong with it before anything is loaded."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from configuration_leap import ExitThreshold
from leap.arguments import OneLineParser, positive


def build_parser(description: str) -> argparse.ArgumentParser:
    """The parser."""
    parser = OneLineParser(
        prog="encode_corpus.py",
        description=description,
        epilog="On several GPUs or machines start it with `accelerate launch`. On CPUs alone that starts one "
        "process where there is no MPI: use ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 "
        "encode_corpus.py ... A run that was killed goes on with --resume, with any number of processes.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32, width=110),
    )
    add = parser.add_argument_group("input").add_argument
    add(
        "--input",
        nargs="+",
        required=True,
        metavar="TEXTS",
        help="files, folders or globs of json, jsonl, csv, txt, parquet (.gz too), or a data set on the Hub",
    )
    add(
        "--split",
        default="train",
        help="of a data set on the Hub, SUBSET/SPLIT where it has subsets (default: %(default)s)",
    )
    add(
        "--text_columns",
        nargs="+",
        default=["text"],
        metavar="COLUMN",
        help="columns that make up a text, joined by a blank, such as: title text (default: text)",
    )
    add(
        "--id_column",
        metavar="COLUMN",
        help="column of ids (default: _id where there is one, else row numbers from 0)",
    )

    add = parser.add_argument_group("model").add_argument
    add(
        "--model",
        default=".",
        metavar="MODEL",
        help="folder, Hub id, or package:NAME for model/ in a Python package (default: this folder)",
    )
    add("--revision", metavar="REV", help="commit, tag or branch of a model on the Hub (default: its newest)")
    add(
        "--exit_threshold",
        type=_threshold,
        default="config",
        metavar="THETA",
        help="theta, or none for full depth (default: the config's, which may have one a layer)",
    )
    add("--min_exit_layer", type=positive, metavar="LAYER", help="l_min, from 1 (default: the config's)")
    add("--max_layers", type=positive, metavar="LAYER", help="stop all texts there (default: the last layer)")
    add("--max_length", type=positive, metavar="TOKENS", help="cut texts there (default: the model's own)")
    add(
        "--batch_size",
        type=positive,
        default=64,
        metavar="N",
        help="texts a forward pass (default: %(default)s)",
    )
    add(
        "--mixed_precision",
        choices=("no", "bf16", "fp16"),
        help="autocast (default: as accelerate is configured; no)",
    )

    add = parser.add_argument_group("output").add_argument
    add("--output", type=Path, required=True, metavar="FOLDER", help="gets the shards and manifest.json")
    add(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="of the vectors (default: %(default)s)",
    )
    add("--normalize", action="store_true", help="make the vectors of unit length")
    add(
        "--shard_size",
        type=positive,
        default=50_000,
        metavar="N",
        help="rows a file: what a process holds in memory, and a kill can cost it (default: %(default)s)",
    )
    add("--resume", action="store_true", help="go on with the run in --output, or begin it")
    return parser


def _threshold(text: str) -> ExitThreshold | str:
    return text if text == "config" else None if text == "none" else float(text)


def parse(description: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; what is wrong ends the program with one line."""
    parser = build_parser(description)
    args = parser.parse_args(argv)
    if args.max_length is not None and args.max_length < 3:
        parser.error(f"--max_length must be at least 3 ([CLS], a token, [SEP]), got {args.max_length}")
    if args.output.exists() and not args.output.is_dir():
        parser.error(f"--output: {str(args.output)!r} is a file: give a folder")
    return args
