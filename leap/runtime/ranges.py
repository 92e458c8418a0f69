"""Which inner units int8 leaves in float32: those whose values reach furthest."""

import numpy as np
import torch
from torch import Tensor, nn

from leap.encode.encoder import Encoder
from leap.runtime.bert import IntArray

TEXTS, WORDS = 32, 32
UNITS = 16  # of 1536; 64 would make the error of all-MiniLM-L6-v2 in int8 3 % less


@torch.inference_mode()
def widest_units(encoder: Encoder) -> list[IntArray]:
    """Of each layer the indices of the `UNITS` inner units that reach furthest, on texts of random words.

    On real texts others are among them, but the error in int8 is the same: the few that matter are found.
    """
    words = sorted(encoder.tokenizer.get_vocab())
    rows = np.random.default_rng(0).choice(words, (TEXTS, WORDS))
    batch = encoder.batch([" ".join(row) for row in rows])
    reach: dict[nn.Module, Tensor] = {}

    def watch(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found = inputs[0].abs().flatten(0, -2).amax(dim=0)
        reach[module] = torch.maximum(found, reach.get(module, found))

    products = [layer.output.dense for layer in encoder.model.encoder.layer]
    hooks = [product.register_forward_pre_hook(watch) for product in products]
    try:
        for theta in (None, -1.0):  # layers behind a leap see other states
            encoder.model(**batch, exit_threshold=theta)
    finally:
        for hook in hooks:
            hook.remove()
    return [np.sort(reach[product].argsort(descending=True)[:UNITS].numpy()) for product in products]
