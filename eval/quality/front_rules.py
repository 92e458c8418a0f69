"""Exit rules, and how they are chosen on held-out training texts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eval.quality.policies import by_order, chosen, describe, fixed
from leap.encode.exits import FloatArray, IntArray
from leap.encode.paths import Paths

# Of the held-out texts, the shares that do not leap: a theta of the front for each.
STAYING = (0.005, 0.01, 0.02, 0.04, 0.11, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8)
SLOPES = (0.0, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3)


@dataclass(frozen=True)
class Rule:
    """An exit rule: a text leaps at the first test layer where s >= theta - slope * ln(tokens).

    Attributes:
        theta: the threshold; None for full depth.
        slope: how much lower it is for longer texts; 0: the same for all, as in a model's config.
    """

    theta: float | None
    slope: float = 0.0

    def taken(self, paths: Paths) -> IntArray:
        """(N,) the path of each text, as `Paths.taken`."""
        if not self.slope:
            return paths.taken(self.theta)
        raised = paths.cosines + np.float32(self.slope) * np.log(paths.tokens)[:, None].astype(np.float32)
        return replace(paths, cosines=raised).taken(self.theta)


def strictest_theta(cosines: FloatArray, share: float) -> float:
    """The highest theta, of four decimals, at which at least `share` of N texts leap.

    Args:
        cosines: (N, M), of `Paths`.
        share: in (0, 1].
    """
    best = np.sort(cosines.max(axis=1).astype(np.float64))
    at = int(np.floor(len(best) * (1 - share) + 1e-9))
    return float(np.floor(np.round(1e4 * best[min(at, len(best) - 1)], 4)) / 1e4)


def front(cosines: FloatArray, default: float) -> list[Rule]:
    """The rules of a front, from all leap to full depth, the default among them; `cosines` as above."""
    thetas = {strictest_theta(cosines, 1 - share) for share in STAYING} | {default}
    return [Rule(-1.0), *(Rule(theta) for theta in sorted(thetas)), Rule(None)]


def choose_bulk(paths: Paths, errors: FloatArray, default: Rule) -> tuple[Rule, list[dict[str, Any]]]:
    """A rule for bulk encoding, by token-layers: the slope of least mean error at the default rule's cost.

    Slopes whose p99 is above that of a constant theta are not chosen.

    Args:
        paths: of held-out texts.
        errors: (N, M + 1) of each of them on each path.
        default: the rule whose token-layers are the budget.

    Returns:
        The rule, and what each of `SLOPES` gives there.
    """
    tokens = paths.tokens.astype(np.float64)
    leap, full = fixed(errors[:, 0], paths.layers_run[0]), fixed(errors[:, -1], paths.layers_run[-1])
    budget = chosen(errors, paths.layers_run, default.taken(paths)).cost(tokens)
    found = []
    for slope in SLOPES:
        score = paths.cosines.max(axis=1) + slope * np.log(tokens)
        policy = by_order(leap, full, score, budget, tokens)
        stay = policy.shares[:, -1] > 0.5
        # Between the last that stays and the first that leaps.
        theta = float(score[~stay].min()) if (~stay).any() else float(score.max()) + 1e-4
        found.append({"slope": slope, "theta": round(theta, 4), **describe(policy, paths.tokens)})
    allowed = [row for row in found if row["p99"] <= found[0]["p99"]]
    best = min(allowed, key=lambda row: row["mean"])
    return Rule(best["theta"], best["slope"]), found


def leap_shares(rule: Rule, sets: Sequence[Paths]) -> list[float]:
    """The share of texts that leap, for each set."""
    return [float((rule.taken(paths) < len(paths.layers)).mean()) for paths in sets]
