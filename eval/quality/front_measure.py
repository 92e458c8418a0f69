"""A set of texts under every rule and rival: closeness to the teacher over cost."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.quality.front_rules import Rule
from eval.quality.policies import Policy, by_order, chosen, coin, describe, fixed, intervals
from eval.quality.ridge import Ridge
from leap.encode.exits import FloatArray, IntArray
from leap.encode.metrics import error_statistics, spearman
from leap.encode.paths import Paths

UNITS = ("layers", "token_layers")
RIVALS = {
    "coin": "a coin between all leap and full depth, of this network",
    "shortest first": "the shortest texts run all layers",
    "students": "a coin between trained students of 3 and 4 layers; beyond 4, of the latter and the teacher",
    "student and teacher": "a coin between the trained student of 3 layers and the teacher",
}
BOUNDS = {
    "ridge": "texts in the order of a ridge regression on the state at the test layer",
    "oracle": "the texts that gain most run all layers",
}


@dataclass(frozen=True)
class Measured:
    """N texts of a set on every path of the model, and by its rivals.

    Attributes:
        paths: of the model.
        errors: (N, M + 1) 1 - cosine to the teacher, on each path.
        students: layers of a separately trained student -> (N,) its errors.
        teacher_layers: of the teacher, whose errors are 0.
        closeness: (N,) what the ridge regression expects.
    """

    paths: Paths
    errors: FloatArray
    students: dict[int, FloatArray]
    teacher_layers: int
    closeness: FloatArray

    @property
    def leap(self) -> Policy:
        """All texts leap at the first test layer."""
        return fixed(self.errors[:, 0], self.paths.layers_run[0])

    @property
    def full(self) -> Policy:
        """All texts run all layers."""
        return fixed(self.errors[:, -1], self.paths.layers_run[-1])

    def rule(self, rule: Rule) -> Policy:
        """The policy of an exit rule."""
        return chosen(self.errors, self.paths.layers_run, rule.taken(self.paths))

    def units(self, name: str) -> FloatArray:
        """(N,) the cost of a layer for each text, in one of `UNITS`."""
        return np.ones(len(self.errors)) if name == "layers" else self.paths.tokens.astype(np.float64)

    def rivals(self, budget: float, unit: str) -> dict[str, Policy]:
        """The available policies of `RIVALS`, at a mean cost of `budget` of `unit` per text."""
        units = self.units(unit)
        found = {
            "coin": coin(self.leap, self.full, budget, units),
            "shortest first": by_order(self.leap, self.full, self.paths.tokens, budget, units),
        }
        steps = [fixed(errors, layers) for layers, errors in sorted(self.students.items())]
        steps.append(fixed(np.zeros(len(self.errors)), self.teacher_layers))
        if len(steps) > 2:
            at = int(budget > steps[1].cost(units))
            found["students"] = coin(steps[at], steps[at + 1], budget, units)
        if len(steps) > 1:
            found["student and teacher"] = coin(steps[0], steps[-1], budget, units)
        return found

    def bounds(self, budget: float, unit: str) -> dict[str, Policy]:
        """The policies of `BOUNDS`, likewise."""
        scores = {"ridge": self.closeness, "oracle": self.errors[:, -1] - self.errors[:, 0]}
        return {
            name: by_order(self.leap, self.full, score, budget, self.units(unit))
            for name, score in scores.items()
        }


def point(
    measured: Measured, rule: Rule, counts: IntArray | None, units: tuple[str, ...] = ("layers",)
) -> dict[str, Any]:
    """A rule on a set, compared with its rivals.

    Args:
        measured: the set.
        rule: an exit rule.
        counts: (R, N) resamples for intervals; None: no intervals.
        units: of the cost at which rivals are held against it; empty: no rivals.

    Returns:
        `exit_threshold`, `slope`; `leap_share`; what `eval.quality.policies.describe` returns. For each unit
        `at_equal_UNIT`: of each rival and bound the same, with `counts` also `difference`: the 95 % intervals
        of the rule's statistics less the rival's, on the same resamples.
    """
    policy = measured.rule(rule)
    taken = rule.taken(measured.paths)
    found: dict[str, Any] = {
        "exit_threshold": rule.theta,
        "slope": rule.slope,
        "leap_share": float((taken < len(measured.paths.layers)).mean()),
        **describe(policy, measured.paths.tokens, counts),
    }
    for unit in units:
        others = measured.rivals(found[unit], unit) | measured.bounds(found[unit], unit)
        found[f"at_equal_{unit}"] = {
            name: describe(other, measured.paths.tokens)
            | (
                {}
                if counts is None
                else {"difference": intervals(policy.statistics(counts) - other.statistics(counts))}
            )
            for name, other in others.items()
        }
    return found


def correlations(measured: Measured, rows: IntArray | None = None, resamples: int = 200) -> dict[str, Any]:
    """Rank correlation between what a rule sees and how close the leap path is to the teacher.

    Args:
        measured: a set.
        rows: some of its texts; None: all.
        resamples: for the interval of s.

    Returns:
        Of `texts`: `s`, the exit criterion at the first test layer, and its 95 % `interval`; `ridge`;
        `length`, minus the tokens.
    """
    rows = np.arange(len(measured.errors)) if rows is None else rows
    closeness, s = -measured.errors[rows, 0], measured.paths.cosines[rows, 0]
    draws = np.random.default_rng(0).integers(len(rows), size=(resamples, len(rows)))
    low, high = np.nan_to_num(np.quantile(spearman(s[draws], closeness[draws]), [0.025, 0.975]))
    seen = {"s": s, "ridge": measured.closeness[rows], "length": -measured.paths.tokens[rows]}
    found = {name: float(np.nan_to_num(spearman(values, closeness))) for name, values in seen.items()}
    return {"texts": len(rows), "interval": [float(low), float(high)], **found}


def ends(measured: Measured, rows: IntArray | None = None) -> dict[str, Any]:
    """Errors at full depth, when all leap, and of the students: `STATISTICS` of each."""
    rows = np.arange(len(measured.errors)) if rows is None else rows
    return {
        "full_depth": error_statistics(measured.errors[rows, -1]),
        "all_leap": error_statistics(measured.errors[rows, 0]),
    } | {
        f"student_of_{layers}": error_statistics(errors[rows]) for layers, errors in measured.students.items()
    }


def predicted_closeness(ridge: Ridge, paths: Paths) -> FloatArray:
    """(N,) the negative log error predicted by a ridge regression on p at the first test layer."""
    return -ridge.predict(paths.tested[:, 0].astype(np.float64))
