"""Named objectives: `paper` as published, `leap` as measured to open the exits from an aligned start.

And presets, which are defaults of train_leap.py's options under a name.
"""

from dataclasses import replace

from leap.distill.objective import ObjectiveConfig

PAPER = ObjectiveConfig()

# From a student that starts as its teacher's copy, cos(e_s^(l), e_t) is about 0.3 at the inner layers: there
# the paper's sigmoid is flat and L_inter pulls the other way. So: no L_inter, and a linear term, whose
# gradient never vanishes, beside a sigmoid of a slope that is nowhere flat. L_contrast is out as it costs
# similarity in short runs. `python -m eval ablation` measures each of these (results/ablation.json).
LEAP = replace(
    PAPER, alpha=0.0, beta=1.0, delta=0.0, slope_start=1.0, slope=1.0, linear=1.0, first_exit_layer=2
)

RECIPES = {"leap": LEAP, "paper": PAPER}

# The paper's protocol (arXiv 2605.01058): 12 layers, l_min 6, theta 0.95, its objective, batch, learning rate
# and epochs. Without L_exit: --beta 0. Its own models, where the Hub can be reached:
#     --teacher sentence-transformers/bert-large-nli-mean-tokens --student microsoft/MiniLM-L12-H384-uncased
# with the data set's --split and --text_columns. Without --student the 12 layers are the two halves of each
# of the teacher's 6.
PRESETS: dict[str, dict[str, object]] = {
    "paper-l12": {
        "recipe": "paper",
        "student_layers": ",".join(f"{layer}a,{layer}f" for layer in range(1, 7)),
        "batch_size": 64,
        "learning_rate": 5e-5,
        "epochs": 10,
        "exit_threshold": 0.95,
        "min_exit_layer": 6,
    }
}
