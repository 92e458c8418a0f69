"""The loosest exit threshold that keeps embeddings as close to full depth as asked, with a guarantee.

    python -m eval calibrate --model . --data my_texts.txt --alpha 0.05 --delta 0.1 --write

The risk of a rule is the mean of 1 - cos(embedding at the exit, embedding at full depth), clipped to [0, 1].
With probability 1 - delta over the draw of the texts, the rule found has an expected risk of at most alpha:
Learn-then-Test (`risk.py`) along thresholds from the strictest to the loosest. That holds where the texts
to come are exchangeable with those given here, all being independent draws from one source: not for texts of
another kind, and not for other weights, so the certificate that `--write` puts into config.json names them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configuration_leap import ExitThreshold
from eval.quality.risk import fixed_sequence, hoeffding_bentkus, simulate
from eval.report import Report
from leap.arguments import add_common_arguments, add_texts_argument, check_writable, positive
from leap.encode.encoder import (
    Encoder,
    encode_layers,
    find_model,
    find_model_folder,
    load_encoder,
    update_config,
)
from leap.encode.exits import FloatArray, exit_layers, row_cosines, successive_cosines
from leap.errors import NothingQualifiesError, UsageError
from leap.files import checksum
from leap.text.samples import load_texts_or_pairs, texts_of
from leap.text.sets import TextData

# Fixed here, before any text is seen, as the tests along a path need it. Fine steps: length costs nothing.
THETAS = tuple(np.round(np.linspace(1, 0, 1001), 3).tolist())
PREDICTED_LOSSES = tuple(np.geomspace(1e-4, 1, 401).tolist())
LEARN_SHARE = (
    0.2  # of the texts, to learn the path of one threshold a layer: it has one number a layer to learn
)


def calibrate(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    alpha: float,
    delta: float,
    per_layer: bool = False,
    min_exit_layer: int | None = None,
    resamples: int = 0,
    seed: int = 0,
    batch_size: int = 64,
    progress: str | None = None,
) -> dict[str, Any]:
    """Find the loosest threshold, or thresholds of each layer, whose expected risk is at most alpha.

    One threshold goes along `THETAS`. Thresholds of each layer go along the path of `learn_path`, learnt on
    `LEARN_SHARE` of the texts, drawn at random; given that path, the texts it is tested on are as independent
    of it as of one fixed beforehand, so the guarantee is the same.

    Args:
        encoder: the model.
        texts: independent draws from the source of the texts to come.
        alpha: bound on the expected risk, in (0, 1).
        delta: bound on the probability that the rule found breaks that bound, in (0, 1).
        per_layer: one threshold a layer.
        min_exit_layer: l_min, below the last layer; None: the model's own.
        resamples: repeat the calibration so often, on resamples of the texts tested on a fifth of their
            number, and count how often the guarantee failed (`eval.quality.risk.simulate`); 0: do not.
        seed: of the draw of the texts that a path is learnt on, and of the resamples.
        batch_size: texts a forward pass.
        progress: the label of a progress bar; None: no bar.

    Returns:
        `exit_threshold`, `min_exit_layer`, `exit_patience`: the rule; `alpha`, `delta`; `n`, texts tested on;
        of those the `risk` and its `p_value`, `mean_exit_layer` and `exit_histogram` at layers 1 .. L;
        `grid`: the `first` and `last` thresholds of the path, how many there are, `count`, and how many texts
        it was learnt on, `learnt_on`; `method`, in words; with `resamples`, `simulation`.

    Raises:
        UsageError: a value out of its range, before any work.
        NothingQualifiesError: not even the strictest thresholds pass.
    """
    for name, value in (("alpha", alpha), ("delta", delta)):
        if not 0 < value < 1:
            raise UsageError(f"--{name}: must be in (0, 1), got {value}")
    _, first_layer, patience = encoder.exit_rule(None, min_exit_layer)
    if first_layer == encoder.depth:
        raise UsageError(f"--min_exit_layer: must be below {encoder.depth}, the last layer: all leave there")
    layers = encode_layers(encoder, texts, batch_size=batch_size, progress=progress)
    cosines = successive_cosines(layers, patience)
    losses = exit_losses(layers)
    path: Sequence[ExitThreshold] = THETAS
    learnt_on = 0
    if per_layer:
        order = np.random.default_rng(seed).permutation(len(texts))
        learnt_on = round(LEARN_SHARE * len(texts))
        learn, test = order[:learnt_on], order[learnt_on:]
        path = learn_path(cosines[learn], losses[learn], first_layer)
        cosines, losses = cosines[test], losses[test]

    count = len(losses)
    left = np.stack([exit_layers(cosines, thetas, first_layer) for thetas in path])  # (J, n)
    taken = losses[np.arange(count), left - 1]
    risks = taken.mean(axis=1)
    p_values = hoeffding_bentkus(risks, count, alpha)
    passed = int(fixed_sequence(p_values, delta))
    if not passed:
        raise NothingQualifiesError(
            f"no threshold qualifies: alpha {alpha:g}, delta {delta:g}, n {count}, smallest risk seen "
            f"{risks.min():.4f}: {_remedy(risks.min(), alpha, delta)}"
        )
    chosen = passed - 1
    figures = {
        "exit_threshold": path[chosen],
        "min_exit_layer": first_layer,
        "exit_patience": patience,
        "alpha": alpha,
        "delta": delta,
        "n": count,
        "risk": float(risks[chosen]),
        "p_value": float(p_values[chosen]),
        "mean_exit_layer": float(left[chosen].mean()),
        "exit_histogram": np.bincount(left[chosen], minlength=encoder.depth + 1)[1:].tolist(),
        "grid": {"first": path[0], "last": path[-1], "count": len(path), "learnt_on": learnt_on},
        "method": "Learn-then-Test (arXiv 2110.01052), Hoeffding-Bentkus p-values, fixed sequence; risk: "
        "mean of 1 - cosine to the full-depth embedding, clipped to [0, 1]",
    }
    if resamples:
        figures["simulation"] = simulate(
            taken, count=count // 5, alpha=alpha, delta=delta, resamples=resamples, seed=seed
        )
    return figures


def _remedy(risk: float, alpha: float, delta: float) -> str:
    # Without any loss the p-value is (1 - alpha)^n: no number of texts below this one can do.
    least = int(np.ceil(np.log(delta) / np.log1p(-alpha)))
    if risk < alpha:
        return f"give more texts (never less than {least}), or a larger --alpha or --delta"
    return "give a larger --alpha or --min_exit_layer"


def exit_losses(layers: FloatArray) -> FloatArray:
    """(N, L) float64 in [0, 1]: of `layers` (N, L, H), the loss of a text that leaves at each layer.

    It is 1 - cosine to the last layer, clipped; 1 of a zero vector, which has no cosine; 0 at the last layer.
    """
    layers = layers.astype(np.float64)
    losses = np.nan_to_num(1 - row_cosines(layers, layers[:, -1:]), nan=1.0).clip(0, 1)
    losses[:, -1] = 0
    return losses


def learn_path(cosines: FloatArray, losses: FloatArray, first_layer: int) -> list[list[float | None]]:
    """A path of thresholds of each layer, from strict to loose, on which a text leaves by its predicted loss.

    At each layer the loss is taken to be proportional to 1 - s_l, with the factor a_l that fits the means of
    these texts. Point c of `PREDICTED_LOSSES` lets out at the first layer where that predicts c or less:
    theta_l = 1 - c / a_l, not below 0. So there is one number to learn a layer, which takes few texts.

    Args:
        cosines: (N, L) s_l of the texts to learn on.
        losses: (N, L) of the same texts.
        first_layer: l_min.

    Returns:
        For each point L thresholds, None before l_min and at the last layer, which are not read.
    """
    inner = slice(first_layer - 1, -1)
    distance = np.nansum(1 - cosines[:, inner], axis=0, dtype=np.float64)
    per_loss = distance / np.maximum(losses[:, inner].sum(axis=0), 1e-9)  # 1 / a_l
    return [
        [None] * (first_layer - 1) + np.round(np.clip(1 - c * per_loss, 0, 1), 4).tolist() + [None]
        for c in PREDICTED_LOSSES
    ]


def write_certificate(folder: Path, figures: dict[str, Any], data: TextData, model_sha256: str) -> None:
    """Write the rule found and `exit_certificate` into a model's config.json, all else in it as it was.

    The certificate names weights and texts, and repeats the rule: with others it is void.

    Args:
        folder: of the model.
        figures: of `calibrate`.
        data: the texts.
        model_sha256: the model's `Encoder.fingerprint`.
    """
    rule = {key: figures[key] for key in ("exit_threshold", "min_exit_layer")}
    certified = ("exit_patience", "alpha", "delta", "n", "risk", "mean_exit_layer", "grid", "method")
    certificate = {
        **rule,
        **{key: figures[key] for key in certified},
        "data": {"name": data.name, "sha256": data.sha256},
        "model_sha256": model_sha256,
    }
    update_config(folder, rule | {"exit_certificate": certificate})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this evaluation."""
    add_common_arguments(parser)
    add_texts_argument(parser)
    parser.add_argument(
        "--texts", type=positive, default=10_000, help="at most so many, drawn at random (%(default)s)"
    )
    parser.add_argument(
        "--alpha", type=float, required=True, help="bound on the expected 1 - cosine, such as 0.05"
    )
    parser.add_argument(
        "--delta", type=float, default=0.1, help="probability that the bound fails (default: %(default)s)"
    )
    parser.add_argument("--per_layer", action="store_true", help="one threshold a layer")
    parser.add_argument("--min_exit_layer", type=positive, help="l_min, from 1 (default: the model's own)")
    parser.add_argument(
        "--resamples",
        type=positive,
        default=0,
        help="see how often the guarantee fails when this is repeated on so many resamples of the texts",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws of texts (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="write rule and certificate into config.json")


def run(args: argparse.Namespace) -> Report:
    """Run it as the command does."""
    find_model(args.model)
    folder = find_model_folder(args.model) if args.write else None
    check_writable("--output", args.output)
    data = load_texts_or_pairs(args.data, args.split)
    texts = texts_of(data)
    if len(texts) > args.texts:
        rows = np.random.default_rng(args.seed).permutation(len(texts))[: args.texts]
        texts = [texts[row] for row in rows]
    drawn = TextData(data.name, checksum(texts))
    encoder = load_encoder(args.model, trust_remote_code=args.trust_remote_code, device=args.device)
    figures = calibrate(
        encoder,
        texts,
        alpha=args.alpha,
        delta=args.delta,
        per_layer=args.per_layer,
        min_exit_layer=args.min_exit_layer,
        resamples=args.resamples,
        seed=args.seed,
        batch_size=args.batch_size,
        progress=data.name,
    )
    summary = _summary(drawn, figures)
    if folder:
        write_certificate(folder, figures, drawn, encoder.fingerprint())
        summary += f"\nrule and exit_certificate written to {folder / 'config.json'}"
    return Report(figures, summary, {"model": encoder}, drawn, args.seed)


def _summary(data: TextData, figures: dict[str, Any]) -> str:
    histogram = figures["exit_histogram"]
    lines = [
        f"{data.name}: tested on {figures['n']} texts; risk = 1 - cosine to the full-depth embedding",
        f"  exit_threshold {figures['exit_threshold']}, l_min {figures['min_exit_layer']}",
        f"  risk {figures['risk']:.4f}, expected at most {figures['alpha']:g} with probability "
        f"{1 - figures['delta']:g} (p-value {figures['p_value']:.3g})",
        f"  mean exit layer {figures['mean_exit_layer']:.3f} of {len(histogram)}, by layer {histogram}",
        "  It holds for these weights and texts exchangeable with these, independent draws from one source.",
    ]
    if "simulation" in figures:
        simulation = figures["simulation"]
        lines.append(
            f"  on {simulation['resamples']} resamples of {simulation['texts']} texts it held in "
            f"{simulation['holding']:.1%}; asked: {1 - figures['delta']:g} or more"
        )
    return "\n".join(lines)
