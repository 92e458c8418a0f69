"""Named objectives: `paper` as published, `leap` as measured to open the exits from an aligned start."""

from dataclasses import replace

from distill.objective import ObjectiveConfig

PAPER = ObjectiveConfig()

# From a student that starts as its teacher's copy, cos(e_s^(l), e_t) is about 0.3 at the inner layers: there
# the paper's sigmoid is flat and L_inter pulls the other way. So: a linear term whose gradient never
# vanishes, a slope that rises as the layers come near, no L_inter, and cosines made comparable across depths.
# `python -m eval ablation` measures each of these.
LEAP = replace(PAPER, alpha=0.0, beta=1.0, slope_start=1.0, linear=1.0, first_exit_layer=2, relation=10.0)

RECIPES = {"leap": LEAP, "paper": PAPER}
