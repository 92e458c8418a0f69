"""Named objectives: `paper` as published, `leap` as measured to open the exits from an aligned start."""

from dataclasses import replace

from distill.objective import ObjectiveConfig

PAPER = ObjectiveConfig()

# From a student that starts as its teacher's copy, cos(e_s^(l), e_t) is about 0.3 at the inner layers: there
# the paper's sigmoid is flat and L_inter pulls the other way. So: no L_inter, and a linear term, whose
# gradient never vanishes, beside a sigmoid of a slope that is nowhere flat. L_contrast is out as it costs
# similarity in short runs. `python -m eval ablation` measures each of these (results/ablation.json).
LEAP = replace(
    PAPER, alpha=0.0, beta=1.0, delta=0.0, slope_start=1.0, slope=1.0, linear=1.0, first_exit_layer=2
)

RECIPES = {"leap": LEAP, "paper": PAPER}
