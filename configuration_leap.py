"""Configuration of LEAP: a BERT encoder whose texts skip layers once their embedding has converged.

This file travels with the weights: the Hub's loader copies it beside `modeling_leap.py` and imports it from
there, so it imports nothing of this project.
"""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias

from transformers import BertConfig

# theta of all layers, or one of each layer (None: nothing leaves there); None: full depth.
ExitThreshold: TypeAlias = float | Sequence[float | None] | None

# What the Auto classes of transformers load from a saved folder with `trust_remote_code`.
HEADS = ("MaskedLM", "MultipleChoice", "QuestionAnswering", "SequenceClassification", "TokenClassification")
AUTO_MAP = {"AutoConfig": "configuration_leap.LeapConfig", "AutoModel": "modeling_leap.LeapModel"}
AUTO_MAP |= {f"AutoModelFor{head}": f"modeling_leap.LeapFor{head}" for head in HEADS}

# Far above any encoder: transformers would build a billion layers before it misses their weights.
MAX_LAYERS = 1000


class LeapConfig(BertConfig):
    """`BertConfig` and the exit rule (arXiv 2605.01058, "Inference"), with a landing layer beyond the paper.

    With p_l the mask-weighted mean of layer l's output, and p_0 that of the embeddings, a text has converged
    at the first layer l in [`min_exit_layer`, `max_exit_layer`] with cos(p_l, p_(l - `exit_patience`)) >=
    `exit_threshold`. It then skips to `landing_layer` and runs from there to the end; without a landing
    layer it leaves the network at l, as in the paper. Layers are counted from 1. `model_type` stays "bert" on
    purpose: without `trust_remote_code` the same weights load as a plain full-depth `BertModel`.

    Args:
        exit_threshold: theta, a cosine in [-1, 1]; -1 lets every text leave. Or a list (tuple, array) of
            `num_hidden_layers` of them, one a layer, with None where nothing leaves; only those of layers in
            [`min_exit_layer`, `max_exit_layer`] are read. None: no early exits, full depth.
        min_exit_layer: l_min, the first layer a text may leave at, in [exit_patience, max_exit_layer]. None:
            half of the layers (the paper's 6 of 12), moved into that range where it lies outside.
        exit_patience: k, the distance in layers of the embeddings compared, in [1, num_hidden_layers - 1].
        landing_layer: the layer that a converged text goes on with, in [exit_patience + 2,
            num_hidden_layers]; None: it leaves the network.
        max_exit_layer: the last layer a text may leave at. None: `landing_layer` - 2, as a text that skips
            nothing gains nothing, or the last layer where there is no landing layer.
        **kwargs: everything `BertConfig` takes.

    A model of one layer has nothing to skip: there every text leaves at that layer whatever the threshold.

    Raises:
        ValueError: a value out of its range; the message names the field, the value and the range.
    """

    # Annotated here too because configs are dataclasses from transformers 5 on: only fields count in `==`.
    exit_threshold: float | list[float | None] | None = None
    min_exit_layer: int | None = None
    exit_patience: int = 1
    landing_layer: int | None = None
    max_exit_layer: int | None = None

    def __init__(
        self,
        exit_threshold: ExitThreshold = None,
        min_exit_layer: int | None = None,
        exit_patience: int = 1,
        landing_layer: int | None = None,
        max_exit_layer: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs | {"auto_map": AUTO_MAP | (kwargs.get("auto_map") or {})})
        self.exit_threshold = exit_threshold
        self.min_exit_layer = min_exit_layer
        self.exit_patience = exit_patience
        self.landing_layer = landing_layer
        self.max_exit_layer = max_exit_layer
        # Plain numbers, whatever came in (numpy scalars of a calibration, say): the fields are saved as JSON.
        self.exit_threshold, first, self.exit_patience = self.resolve_exit_rule()
        self.min_exit_layer = None if min_exit_layer is None else first
        self.landing_layer = None if landing_layer is None else int(landing_layer)
        self.max_exit_layer = None if max_exit_layer is None else int(max_exit_layer)

    def resolve_exit_rule(
        self,
        exit_threshold: ExitThreshold | Literal["config"] = "config",
        min_exit_layer: int | None = None,
    ) -> tuple[float | list[float | None] | None, int, int]:
        """The exit rule in force, checked: (theta, a list of one a layer or None for full depth, l_min, k).

        Fields may be assigned after construction, so `LeapModel` asks again in every forward.

        Args:
            exit_threshold: in the place of the config's; "config" keeps it, None means full depth.
            min_exit_layer: in the place of the config's; None keeps it.

        Raises:
            ValueError: a value out of its range, of the config or of the arguments.
        """
        layers = check_int("num_hidden_layers", self.num_hidden_layers, 1, MAX_LAYERS)
        patience = check_int("exit_patience", self.exit_patience, 1, max(1, layers - 1))

        theta = self.exit_threshold if _is_config(exit_threshold) else exit_threshold
        if hasattr(theta, "tolist"):  # numpy's arrays and scalars, and tensors
            theta = theta.tolist()
        by_layer = isinstance(theta, list | tuple)
        thetas = list(theta) if by_layer else [theta]
        if (by_layer and len(thetas) != layers) or not all(t is None or _is_threshold(t) for t in thetas):
            raise ValueError(
                f"exit_threshold must be a number in [-1, 1], a list of {layers} of them, one a layer, with "
                f"None where nothing leaves, or None for full depth; got {theta!r}"
            )
        thetas = [None if t is None else float(t) for t in thetas]

        last = layers
        if self.landing_layer is not None:
            if layers < patience + 2:
                raise ValueError(
                    f"landing_layer must be None in a model of {layers} layers: a leap skips one of at least "
                    f"{patience + 2}"
                )
            last = check_int("landing_layer", self.landing_layer, patience + 2, layers) - 2
        if self.max_exit_layer is not None:
            last = check_int("max_exit_layer", self.max_exit_layer, patience, last)
        first = self.min_exit_layer if min_exit_layer is None else min_exit_layer
        if first is None:
            first = min(max(layers // 2, patience), last)
        first = check_int("min_exit_layer", first, patience, last)
        return thetas if by_layer else thetas[0], first, patience

    def exit_thresholds(
        self,
        exit_threshold: ExitThreshold | Literal["config"] = "config",
        min_exit_layer: int | None = None,
        max_layers: int | None = None,
    ) -> dict[int, float]:
        """Theta of every layer at which a row may leave before the last one, by layer, in ascending order.

        Args:
            exit_threshold: as `resolve_exit_rule`.
            min_exit_layer: as `resolve_exit_rule`.
            max_layers: the depth that is run; None: all layers. Rows cannot land beyond it.

        Raises:
            ValueError: as `resolve_exit_rule`.
        """
        theta, first, _ = self.resolve_exit_rule(exit_threshold, min_exit_layer)
        depth = self.num_hidden_layers if max_layers is None else max_layers
        last = depth - 1 if self.landing_layer is None else self.landing_layer - 2
        if self.max_exit_layer is not None:
            last = min(last, self.max_exit_layer)
        if self.landing_layer is not None and self.landing_layer > depth:
            return {}
        thetas = theta if isinstance(theta, list) else [theta] * self.num_hidden_layers
        return {n: thetas[n - 1] for n in range(first, last + 1) if thetas[n - 1] is not None}


def _is_config(value: object) -> bool:
    return isinstance(value, str) and value == "config"


def _is_threshold(value: object) -> bool:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and -1 <= value <= 1


def check_int(name: str, value: object, low: int, high: int) -> int:
    """`value` if it is an integer in [low, high]; a ValueError that names it otherwise."""
    if not isinstance(value, Integral) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} must be an integer in [{low}, {high}], got {value!r}")
    return int(value)


LeapConfig.register_for_auto_class()
