"""Fine-tune LEAP-MiniLM on pairs of your own and keep its exits worth taking; scores before and after.

python examples/finetune.py --data pairs.csv --output_dir runs/mine

The file has the columns anchor, positive (texts that belong together) or sentence1, sentence2, score.
With --compare it is done a second time without L_exit, to show what that term is for.
"""

import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from transformers.utils import logging as transformers_logging

from eval.report import Report
from leap.arguments import OptionsParser, check_at_least, option
from leap.distill.finetuning import FineTuning, finetune
from leap.encode.encoder import Encoder, encode, find_model, load_encoder
from leap.encode.exits import FloatArray, row_cosines, unit_vectors
from leap.encode.metrics import spearman
from leap.errors import UsageError
from leap.files import check_writable, write_json
from leap.folders import check_replaceable
from leap.text.formats import file_format
from leap.text.pairs import Pairs, load_pairs
from leap.text.sets import TextData, load_sts

ROOT = Path(__file__).resolve().parent.parent


@dataclass(kw_only=True)
class Options:
    """The command line; fields that `FineTuning` has too are passed on to it."""

    model: str = option("folder or Hub id", str(ROOT))
    data: str = option("pairs to train on: csv, json, jsonl, parquet (.gz too), or a set, such as stsb")
    validation: str | None = option("pairs to score by; none: a tenth of --data, or a set's validation", None)
    output_dir: Path = option("folder of the fine-tuned model")
    exit_weight: float = option("weight of L_exit", FineTuning.exit_weight)
    compare: bool = option("also fine-tune without L_exit, and show both", False)
    epochs: float = option("passes over the pairs", FineTuning.epochs)
    max_steps: int | None = option("maximum number of steps; none: as many as the epochs have", None)
    batch_size: int = option("pairs per step", FineTuning.batch_size)
    learning_rate: float = option("peak learning rate", FineTuning.learning_rate)
    seed: int = option("random seed", FineTuning.seed)
    device: str | None = option("torch device; none: the GPU if there is one", None)
    output: Path | None = option("JSON file of the figures", None)

    def __post_init__(self) -> None:
        check_at_least(self, 1, "max_steps", "batch_size")
        check_writable("--output", self.output)
        check_replaceable("--output_dir", self.output_dir)
        if self.compare:
            check_replaceable("--output_dir", self.compared)

    @property
    def compared(self) -> Path:
        """The folder of the model that is fine-tuned without L_exit."""
        return self.output_dir.with_name(f"{self.output_dir.name}-without-exit-term")

    def settings(self, exit_weight: float) -> FineTuning:
        """Those of the training."""
        given = {field.name: getattr(self, field.name) for field in fields(FineTuning)}
        return FineTuning(**(given | {"exit_weight": exit_weight}))


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; the exit status: 0, or 2 with one line of error."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = OptionsParser(Options, prog="finetune", description=__doc__.splitlines()[0])
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()  # of loading weights
    try:
        options = parser.parse(argv)
        report = run(options, *load_data(options))
    except UsageError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    print(report.summary)
    if options.output:
        content = report.to_json(["finetune", *argv])
        content["provenance"]["command"] = shlex.join(["python", "examples/finetune.py", *argv])
        write_json(options.output, content)
        print(f"written to {options.output}")
    return 0


def load_data(options: Options) -> tuple[Pairs, Pairs]:
    """Pairs to train on, and pairs to score by.

    Raises:
        UsageError: there are none, or the two are not of the same kind.
    """

    def load(source: str, split: str, argument: str) -> Pairs:
        if file_format(source):
            return load_pairs(Path(source), argument)
        found = load_sts(source, split, argument)
        return Pairs(found.name, found.first, found.second, found.scores)

    train = load(options.data, "train", "--data")
    if options.validation or not file_format(options.data):
        validation = load(options.validation or options.data, "validation", "--validation")
    else:
        train, validation = train.split(0.1, options.seed)
    if (train.scores is None) != (validation.scores is None):
        raise UsageError("--validation: one of --data and --validation has scores, the other has none")
    if len(validation) < 2 or len(train) < 2:
        raise UsageError(f"--data: {len(train)} pairs to train on, {len(validation)} to score by: give more")
    return train, validation


def run(options: Options, train: Pairs, validation: Pairs) -> Report:
    """Fine-tune, with L_exit and on request without, and score before and after."""
    source = find_model(options.model)
    before = load_encoder(source, device=options.device)
    if options.model == str(ROOT):
        before = replace(before, name=".")  # a result says nothing of where this repository lies
    if before.model.config.exit_threshold is None:
        raise UsageError(
            "--model: it has no exit_threshold in its config: choose one by `python -m eval calibrate`"
        )
    encoders = {"before": before}
    folders = {"L_exit": (options.output_dir, options.exit_weight)}
    if options.compare:
        folders["without L_exit"] = (options.compared, 0.0)
    for name, (folder, weight) in folders.items():
        loss = finetune(source, train, folder, options.settings(weight), options.device)
        print(f"{name}: loss {loss:.4f} at the end, saved to {folder}", flush=True)
        encoders[name] = load_encoder(str(folder), trust_remote_code=True, device=options.device)
    scores = {name: score(encoder, validation) for name, encoder in encoders.items()}
    figures = {
        "metric": "spearman" if validation.scores is not None else "accuracy",
        "train": {"name": train.name, "pairs": len(train), "sha256": train.sha256},
        "validation": {"name": validation.name, "pairs": len(validation)},
        "settings": asdict(options.settings(options.exit_weight)),
        "models": scores,
    }
    data = TextData(validation.name, validation.sha256)
    return Report(figures, summarise(figures), encoders, data, options.seed)


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
