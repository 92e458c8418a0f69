"""Named objectives: `paper` as published, and `leap`, chosen by short trials (results/ablation.json).

And presets, which are defaults of train_leap.py's options under a name.
"""

from dataclasses import dataclass

from leap.distill.objective import ObjectiveConfig


@dataclass(frozen=True)
class Recipe:
    """An objective and the form of the exits it is for.

    Attributes:
        objective: weights and shapes of its terms.
        exit_layer: the layer that texts leap from, first and last; None: the paper's form.
        landing_from_end: layers after the landing layer, which is one of the last; None: the paper's form.
    """

    objective: ObjectiveConfig
    exit_layer: int | None = None
    landing_from_end: int | None = None


PAPER = Recipe(ObjectiveConfig())

# A text that has converged after layer 1 leaps to the last two layers. 1 - cos in the place of the sigmoid,
# as that is flat where training starts; no L_inter, whose targets are the teacher's own layers, which exits
# skip; no L_exit_s, as full depth soon is the teacher, whom L_exit_t asks for already.
LEAP = Recipe(
    ObjectiveConfig(
        final=3.0,
        alpha=0.0,
        beta=1.0,
        delta=0.0,
        own_final=0.0,
        penalty="cosine",
        token_final=1.5,
        token_exit=1.0,
        signal=3.0,
    ),
    exit_layer=1,
    landing_from_end=1,
)

RECIPES = {"leap": LEAP, "paper": PAPER}

# The paper's protocol (arXiv 2605.01058): 12 layers, l_min 6, theta 0.95, its objective, batch, learning rate
# and epochs. Without L_exit: --beta 0. The 12 layers are the two halves of each of the teacher's 6.
PRESETS: dict[str, dict[str, object]] = {
    "paper-l12": {
        "recipe": "paper",
        "student_layers": ",".join(f"{layer}a,{layer}f" for layer in range(1, 7)),
        "batch_size": 64,
        "batch_tokens": 64 * 512,
        "learning_rate": 5e-5,
        "epochs": 10,
        "exit_threshold": 0.95,
        "min_exit_layer": 6,
    }
}
