"""The rule of a model with one test: which layers a text runs that has converged."""

from dataclasses import dataclass

from configuration_leap import LeapConfig


@dataclass(frozen=True)
class Leap:
    """The one test of a model, and where its texts land.

    Attributes:
        test: the layer after which a text may leap.
        patience: k; s = cos(p_l, p_(l-k)).
        landing: the layer that a converged text goes on with; one past the last where it leaves the network.
        layers: the depth of the model.
        theta: the threshold; None: the config has none, and nobody leaps.
    """

    test: int
    patience: int
    landing: int
    layers: int
    theta: float | None

    @classmethod
    def of(cls, config: LeapConfig) -> "Leap":
        """That of a config.

        Raises:
            ValueError: its texts may leave at several layers.
        """
        exits = config.exit_thresholds() or dict.fromkeys(config.exit_thresholds(-1.0))
        if len(exits) != 1:
            raise ValueError(
                f"texts may leave after layers {', '.join(map(str, exits))}, and this takes one test: set "
                "min_exit_layer and max_exit_layer to the same layer, or run this model in torch"
            )
        ((test, theta),) = exits.items()
        layers = config.num_hidden_layers
        return cls(test, config.exit_patience, config.landing_layer or layers + 1, layers, theta)

    @property
    def path(self) -> list[int]:
        """The layers, from 1, that a text runs which leaps."""
        return [*range(1, self.test + 1), *range(self.landing, self.layers + 1)]
