"""Every way that a text can take through a LEAP model, computed once: any exit rule is then a lookup.

A text that has converged at a test layer leaps from there (or, in the paper's form, leaves there); one that
has not runs all layers. With the embedding of each of these paths and the cosines that the rule compares,
every threshold is a matter of looking up, and no text is encoded twice. A test holds the lookup to
`LeapModel` itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cosine_similarity

from configuration_leap import ExitThreshold
from leap.encode.encoder import Encoder, forward_batches
from leap.encode.exits import FloatArray, IntArray


@dataclass(frozen=True)
class Paths:
    """N texts on each of the M + 1 paths of a model: one for each test layer, in order, then full depth.

    Attributes:
        embeddings: (N, M + 1, H) float32, mean-pooled, not normalised.
        cosines: (N, M) float32, s_l = cos(p_l, p_(l-k)) at the test layers, which the rule compares with
            theta.
        tested: (N, M, H) float32, the pooled state p_l at the test layers: all that a rule could look at.
        tokens: (N,) tokens of each text, the special ones included.
        layers: (M,) test layers, counted from 1.
        layers_run: (M + 1,) layers that a text on each path runs.
    """

    embeddings: FloatArray
    cosines: FloatArray
    tested: FloatArray
    tokens: IntArray
    layers: IntArray
    layers_run: IntArray

    def taken(self, theta: ExitThreshold) -> IntArray:
        """(N,) the path, in [0, M], that each text takes.

        Args:
            theta: one threshold for all test layers, a list of one a layer of the model, or None for full
                depth.
        """
        if isinstance(theta, list | tuple):
            theta = [theta[layer - 1] for layer in self.layers]
        # In the type of the cosines, as torch compares them. None becomes NaN, which nothing reaches.
        thetas = np.broadcast_to(np.asarray(theta, dtype=self.cosines.dtype), self.cosines.shape[1])
        to_the_end = np.ones((len(self.tokens), 1), dtype=bool)
        return np.hstack([self.cosines >= thetas, to_the_end]).argmax(axis=1)

    def at(self, theta: ExitThreshold) -> FloatArray:
        """(N, H): the embeddings under a rule; `theta` as for `taken`."""
        return self.embeddings[np.arange(len(self.tokens)), self.taken(theta)]

    def cost(self, theta: ExitThreshold) -> IntArray:
        """(N,) layers that each text runs under a rule; `theta` as for `taken`."""
        return self.layers_run[self.taken(theta)]

    def take(self, rows: IntArray) -> "Paths":
        """The same of some of the texts."""
        return Paths(
            self.embeddings[rows],
            self.cosines[rows],
            self.tested[rows],
            self.tokens[rows],
            self.layers,
            self.layers_run,
        )

    @property
    def full(self) -> FloatArray:
        """(N, H): the embeddings at full depth."""
        return self.embeddings[:, -1]

    @property
    def leap(self) -> FloatArray:
        """(N, H): the embeddings when all texts converge at the first test layer."""
        return self.embeddings[:, 0]


@torch.inference_mode()
def encode_paths(
    encoder: Encoder, texts: Sequence[str], *, batch_size: int = 64, progress: str | None = None
) -> Paths:
    """Encode texts on every path of a model.

    Args:
        encoder: the model. Its config says at which layers a text may converge and where it lands.
        texts: N texts.
        batch_size: most texts a forward pass; on a CPU fewer if they are long.
        progress: the label of a progress bar; None: no bar.
    """
    config = encoder.model.config
    layers = list(config.exit_thresholds(-1.0))
    depth = encoder.depth
    behind = 0 if config.landing_layer is None else depth + 1 - config.landing_layer
    shape = (len(texts), len(layers), config.hidden_size)
    embeddings = np.empty((shape[0], shape[1] + 1, shape[2]), dtype=np.float32)
    tested, cosines = np.empty(shape, dtype=np.float32), np.empty(shape[:2], dtype=np.float32)
    tokens = np.empty(len(texts), dtype=np.int64)
    for rows, batch in forward_batches(encoder, texts, batch_size, progress):
        tokens[rows] = batch["attention_mask"].sum(dim=1).cpu().numpy()
        states = encoder.model(**batch, output_layer_embeddings=True).layer_embeddings
        embeddings[rows, -1] = states[:, -1].cpu().numpy()
        for number, layer in enumerate(layers):
            here, before = states[:, layer], states[:, layer - config.exit_patience]
            tested[rows, number] = here.cpu().numpy()
            cosines[rows, number] = cosine_similarity(here, before, dim=-1).cpu().numpy()
            if config.landing_layer is not None:
                here = encoder.model(**batch, **_leap_at(layer, depth)).sentence_embedding
            embeddings[rows, number] = here.cpu().numpy()
    run = [layer + behind for layer in layers]
    return Paths(
        embeddings, cosines, tested, tokens, np.array(layers, dtype=np.int64), np.array([*run, depth])
    )


def _leap_at(layer: int, depth: int) -> dict[str, Any]:
    """Arguments of a call in which every text converges at `layer`."""
    return {
        "exit_threshold": [-1.0 if at == layer else None for at in range(1, depth + 1)],
        "min_exit_layer": layer,
    }
