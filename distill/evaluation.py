"""How the student does while it learns: STS by layer, and when its texts would leave."""

import numpy as np
from transformers import PreTrainedTokenizerBase

from eval.data import StsData
from eval.encode import Encoder, encode_layers
from eval.exits import at_layers, exit_layers, row_cosines, successive_cosines
from eval.metrics import spearman
from modeling_leap import LeapModel

THETAS = (0.90, 0.95)


def evaluate_student(
    student: LeapModel, tokenizer: PreTrainedTokenizerBase, sts: StsData
) -> tuple[dict[str, float], str]:
    """STS Spearman after every layer and with exits, and the mean exit layer, at a few thresholds.

    Args:
        student: any depth; left in the mode it was in.
        tokenizer: its tokenizer.
        sts: sentence pairs with scores.

    Returns:
        Figures by name, for a tracker, and the same in a line, for a reader.
    """
    layers = encode_layers(Encoder("student", student, tokenizer, 128), [*sts.first, *sts.second])
    first, second = layers[: len(sts.first)], layers[len(sts.first) :]
    static = [
        float(spearman(row_cosines(first[:, i], second[:, i]), sts.scores)) for i in range(layers.shape[1])
    ]
    flat = {f"sts/layer_{i}": round(value, 4) for i, value in enumerate(static, start=1)}
    line = "STS by layer " + " ".join(f"{value:.4f}" for value in static)
    patience = student.config.exit_patience
    if layers.shape[1] <= patience:
        return flat, line
    cosines = successive_cosines(layers, patience)
    for theta in THETAS:
        exits = exit_layers(cosines, theta, patience + 1)
        left = at_layers(layers, exits)
        value = float(spearman(row_cosines(left[: len(first)], left[len(first) :]), sts.scores))
        share = np.bincount(exits, minlength=layers.shape[1] + 1)[1:] / len(exits)
        flat |= {
            f"sts/theta_{theta}": round(value, 4),
            f"mean_exit_layer/theta_{theta}": round(float(exits.mean()), 3),
        }
        shares = " ".join(f"{part:.0%}" for part in share)
        line += f" | theta {theta}: {value:.4f} at {exits.mean():.2f} [{shares}]"
    return flat, line
