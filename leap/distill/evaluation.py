"""How the student does while it learns: STS by layer, and when its texts would leave."""

from transformers import PreTrainedTokenizerBase

from eval.studies.depth_scores import DepthScores, embed_pairs
from leap.encode.encoder import Encoder
from leap.encode.exits import exit_layers
from leap.text.sets import StsData
from modeling_leap import LeapModel

MAX_LENGTH = 128  # tokens of a sentence
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
    encoder = Encoder("student", student, tokenizer, MAX_LENGTH)
    patience = student.config.exit_patience
    scores = DepthScores(embed_pairs(encoder, sts), sts.scores, patience)
    static = [cut["spearman"] for cut in scores.static]
    flat = {f"sts/layer_{i}": round(value, 4) for i, value in enumerate(static, start=1)}
    line = "STS by layer " + " ".join(f"{value:.4f}" for value in static)
    if len(static) <= patience:
        return flat, line
    for theta in THETAS:
        point = scores.measure(theta, patience + 1)
        left = exit_layers(scores.cosines, theta, patience + 1)
        shares = " ".join(f"{(left == layer).mean():.0%}" for layer in range(1, len(static) + 1))
        value, depth = point["spearman"], point["mean_exit_layer"]
        flat |= {f"sts/theta_{theta}": round(value, 4), f"mean_exit_layer/theta_{theta}": round(depth, 3)}
        line += f" | theta {theta}: {value:.4f} at {depth:.2f} [{shares}]"
    return flat, line
