"""The exit rule of a call, from config.json alone: `LeapConfig.resolve_exit_rule` without transformers.

A server that runs ONNX files has no transformers; the tests hold both to the same answers and errors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias

ExitThreshold: TypeAlias = float | Sequence[float | None] | None


@dataclass(frozen=True)
class ExitRule:
    """Which layers a text may leave at, and how alike its embeddings have to be there.

    Attributes:
        exits: theta by layer, in order; at the last layer, which is not among them, every text leaves.
        layers: the number of layers, L.
        patience: k, the distance in layers of the embeddings compared.
    """

    exits: dict[int, float]
    layers: int
    patience: int


def resolve(
    config: dict[str, Any],
    exit_threshold: ExitThreshold | Literal["config"] = "config",
    min_exit_layer: int | None = None,
) -> ExitRule:
    """The rule that a call with these arguments follows.

    Args:
        config: the content of config.json; one without LEAP's fields has no early exits.
        exit_threshold: theta, a cosine in [-1, 1], or a list of one a layer with None where nothing leaves;
            None for full depth, "config" for the config's.
        min_exit_layer: l_min; None for the config's.

    Raises:
        ValueError: a value out of its range; the message names the argument, the value and the range.
    """
    layers = config["num_hidden_layers"]
    patience = _check_int("exit_patience", config.get("exit_patience", 1), 1, max(1, layers - 1))

    from_config = isinstance(exit_threshold, str) and exit_threshold == "config"
    theta = config.get("exit_threshold") if from_config else exit_threshold
    by_layer = isinstance(theta, list | tuple)
    thetas = list(theta) if by_layer else [theta] * layers
    if len(thetas) != layers or not all(value is None or _is_threshold(value) for value in thetas):
        raise ValueError(
            f"exit_threshold must be a number in [-1, 1], a list of {layers} of them, one a layer, with "
            f"None where nothing leaves, or None for full depth; got {theta!r}"
        )

    lowest = min(patience + 1, layers)
    first = config.get("min_exit_layer") if min_exit_layer is None else min_exit_layer
    if first is None:
        first = max(layers // 2, lowest)
    first = _check_int("min_exit_layer", first, lowest, layers)
    exits = {
        number: float(thetas[number - 1]) for number in range(first, layers) if thetas[number - 1] is not None
    }
    return ExitRule(exits, layers, patience)


def first_exit(config: dict[str, Any]) -> int:
    """l_min of the config, in its range."""
    lowest = min(config.get("exit_patience", 1) + 1, config["num_hidden_layers"])
    return config.get("min_exit_layer") or max(config["num_hidden_layers"] // 2, lowest)


def _is_threshold(value: object) -> bool:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and -1 < value <= 1


def _check_int(name: str, value: object, low: int, high: int) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} must be an integer in [{low}, {high}], got {value!r}")
    return int(value)
