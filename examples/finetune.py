"""Fine-tune LEAP-MiniLM on pairs of your own and keep its exits worth taking; scores before and after.

python examples/finetune.py --data pairs.csv --output_dir runs/mine

The file has the columns anchor, positive (texts that belong together) or sentence1, sentence2, score.
With --compare it is done a second time without L_exit, to show what that term is for.
"""

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from transformers.utils import logging as transformers_logging

from eval.report import Report
from leap.arguments import OneLineParser, check_writable, positive
from leap.distill.finetuning import FineTuning, finetune
from leap.encode.encoder import Encoder, encode, find_model, load_encoder
from leap.encode.exits import FloatArray, row_cosines, unit_vectors
from leap.encode.metrics import spearman
from leap.errors import UsageError
from leap.files import write_json
from leap.text.formats import file_format
from leap.text.pairs import Pairs, load_pairs
from leap.text.sets import TextData, load_sts

ROOT = Path(__file__).resolve().parent.parent


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; the exit status: 0, or 2 with one line of error."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = make_parser()
    args = parser.parse_args(argv)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()  # of loading weights
    try:
        check_writable("--output", args.output)
        train, validation = load_data(args)
        report = run(args, train, validation)
    except UsageError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    print(report.summary)
    if args.output:
        content = report.to_json(["finetune", *argv])
        content["provenance"]["command"] = shlex.join(["python", "examples/finetune.py", *argv])
        write_json(args.output, content)
        print(f"written to {args.output}")
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    defaults = FineTuning()
    parser = OneLineParser(prog="finetune", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(ROOT), help="folder or Hub id (default: this repository)")
    parser.add_argument(
        "--data",
        required=True,
        help="pairs to train on: csv, json, jsonl, parquet (.gz too), or a set such as stsb, its train split",
    )
    parser.add_argument(
        "--validation",
        help="pairs to score by (default: a tenth of --data, held out; of a set its validation)",
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the fine-tuned model")
    parser.add_argument(
        "--exit_weight",
        type=float,
        default=defaults.exit_weight,
        help="weight of L_exit (default: %(default)s)",
    )
    parser.add_argument("--compare", action="store_true", help="also fine-tune without L_exit, and show both")
    parser.add_argument(
        "--epochs", type=float, default=defaults.epochs, help="passes over the pairs (%(default)s)"
    )
    parser.add_argument("--max_steps", type=positive, help="steps at most (default: as the epochs have)")
    parser.add_argument(
        "--batch_size", type=positive, default=defaults.batch_size, help="pairs a step (%(default)s)"
    )
    parser.add_argument(
        "--learning_rate", type=float, default=defaults.learning_rate, help="its peak (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of all that is drawn (%(default)s)")
    parser.add_argument("--device", help="torch's name of a device (default: the GPU where there is one)")
    parser.add_argument("--output", type=Path, help="JSON file of the figures (default: none)")
    return parser


def load_data(args: argparse.Namespace) -> tuple[Pairs, Pairs]:
    """Pairs to train on, and pairs to score by.

    Raises:
        UsageError: there are none, or the two are not of the same kind.
    """

    def load(source: str, split: str, argument: str) -> Pairs:
        if file_format(source):
            return load_pairs(Path(source), argument)
        found = load_sts(source, split, argument)
        return Pairs(found.name, found.first, found.second, found.scores)

    train = load(args.data, "train", "--data")
    if args.validation or not file_format(args.data):
        validation = load(args.validation or args.data, "validation", "--validation")
    else:
        train, validation = train.split(0.1, args.seed)
    if (train.scores is None) != (validation.scores is None):
        raise UsageError("--validation: one of --data and --validation has scores, the other has none")
    if len(validation) < 2 or len(train) < 2:
        raise UsageError(f"--data: {len(train)} pairs to train on, {len(validation)} to score by: give more")
    return train, validation


def run(args: argparse.Namespace, train: Pairs, validation: Pairs) -> Report:
    """Fine-tune, with L_exit and on request without, and score before and after."""
    source = find_model(args.model)
    before = load_encoder(source, device=args.device)
    if args.model == str(ROOT):
        before = replace(before, name=".")  # a result says nothing of where this repository lies
    if before.model.config.exit_threshold is None:
        raise UsageError(
            "--model: it has no exit_threshold in its config: choose one by `python -m eval calibrate`"
        )
    encoders = {"before": before}
    folders = {"L_exit": (args.output_dir, args.exit_weight)}
    if args.compare:
        without = args.output_dir.with_name(f"{args.output_dir.name}-without-exit-term")
        folders["without L_exit"] = (without, 0.0)
    for name, (folder, weight) in folders.items():
        settings = FineTuning(
            weight, args.epochs, args.max_steps, args.batch_size, args.learning_rate, args.seed
        )
        loss = finetune(source, train, folder, settings, args.device)
        print(f"{name}: loss {loss:.4f} at the end, saved to {folder}", flush=True)
        encoders[name] = load_encoder(str(folder), trust_remote_code=True, device=args.device)
    scores = {name: score(encoder, validation) for name, encoder in encoders.items()}
    figures = {
        "metric": "spearman" if validation.scores is not None else "accuracy",
        "train": {"name": train.name, "pairs": len(train), "sha256": train.sha256},
        "validation": {"name": validation.name, "pairs": len(validation)},
        "settings": {
            "exit_weight": args.exit_weight,
            "epochs": args.epochs,
            "max_steps": args.max_steps,
            "batch_size": args.batch_size,
            "learning_rate": args.learning_rate,
        },
        "models": scores,
    }
    data = TextData(validation.name, validation.sha256)
    return Report(figures, summarise(figures), encoders, data, args.seed)


def score(encoder: Encoder, pairs: Pairs) -> dict[str, Any]:
    """The score at full depth, by the model's own exit rule and where all texts leave, and what it costs.

    Returns:
        `full_depth`; `exits`; `all_leave`, and `distance`, the mean of 1 - cos of what that gives to full
        depth; by the model's rule, `mean_layers_run`, and `leaving`, the share that ran less than all layers.
    """
    texts = pairs.first + pairs.second
    full, exits, early = (encode(encoder, texts, exit_threshold=theta) for theta in (None, "config", -1.0))
    return {
        "full_depth": quality(full.embeddings, pairs),
        "exits": quality(exits.embeddings, pairs),
        "all_leave": quality(early.embeddings, pairs),
        "distance": float(1 - row_cosines(early.embeddings, full.embeddings).mean()),
        "mean_layers_run": float(exits.layers_run.mean()),
        "leaving": float((exits.layers_run < encoder.depth).mean()),
    }


def quality(embeddings: FloatArray, pairs: Pairs) -> float:
    """Spearman's correlation with the scores; without them, how often a text's nearest is its own positive.

    Args:
        embeddings: (2N, H) of the N first texts, then of the N second ones.
        pairs: the N pairs.
    """
    first, second = np.split(embeddings, 2)
    if pairs.scores is not None:
        return float(spearman(row_cosines(first, second), pairs.scores))
    nearest = (unit_vectors(first) @ unit_vectors(second).T).argmax(axis=1)
    return float((nearest == np.arange(len(first))).mean())


def summarise(figures: dict[str, Any]) -> str:
    """The figures as a table."""
    titles = ("full depth", "exits", "layers run", "leaving", "all leave", "1 - cos")
    lines = [
        f"{figures['metric']} on {figures['validation']['name']}, {figures['validation']['pairs']} pairs",
        f"  {'':<16}" + "".join(f"{title:>12}" for title in titles),
    ]
    for name, found in figures["models"].items():
        columns = [f"{found['full_depth']:.4f}", f"{found['exits']:.4f}", f"{found['mean_layers_run']:.2f}"]
        columns += [f"{found['leaving']:.1%}", f"{found['all_leave']:.4f}", f"{found['distance']:.4f}"]
        lines.append(f"  {name:<16}" + "".join(f"{column:>12}" for column in columns))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
