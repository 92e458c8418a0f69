"""What a row of a call must return, computed independently: alone, unpadded, at full depth, by BertModel.

The exit rule is then applied to the embeddings of all layers, by code that shares nothing with the model's
loop. Sums taken in another order differ in their last digits, so a cosine that comes as near to its
threshold as `TIE_BAND` may fall on either side of it: such rows are told apart, and counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from leap.encode.exits import row_cosines
from modeling_leap import LeapModel, LeapModelOutput

TIE_BAND = 1e-4  # of a cosine, around its threshold
TOLERANCE = 1e-4  # of a component of an embedding or of a token's state; these are of the order of 1


@dataclass(frozen=True)
class Verdict:
    """How the rows of a call compare with the oracle.

    Attributes:
        rows: of the call.
        tied: rows with a cosine within `TIE_BAND` of its threshold that left at another layer.
        wrong: what is wrong with each of the others that are; empty if all is well.
        exits: the layer each row left at.
    """

    rows: int
    tied: int
    wrong: list[str]
    exits: list[int]


def plain_bert(model: LeapModel) -> BertModel:
    """The BertModel of transformers, sharing the same weights."""
    config = BertConfig(**model.config.to_dict())
    config._attn_implementation = model.config._attn_implementation
    bert = BertModel(config, add_pooling_layer=False)
    bert.load_state_dict(model.state_dict(), assign=True)
    return bert.eval()


def judge(bert: BertModel, model: LeapModel, call: Mapping[str, Any], output: LeapModelOutput) -> Verdict:
    """Compare every row of a call with the oracle.

    Args:
        bert: `plain_bert(model)`.
        model: whose config holds the exit rule.
        call: the arguments the model was called with.
        output: what it gave.
    """
    config = model.config
    depth = call.get("max_layers") or config.num_hidden_layers
    tested = config.exit_thresholds(
        call.get("exit_threshold", "config"), call.get("min_exit_layer"), call.get("max_layers")
    )
    tokens = call["input_ids"] if call.get("input_ids") is not None else call["inputs_embeds"]
    mask = call.get("attention_mask")
    kept = torch.ones(tokens.shape[:2], dtype=torch.bool) if mask is None else mask != 0
    tied, wrong, exits = 0, [], output.exit_layer.tolist()
    for row, exit_layer in enumerate(exits):
        if not kept[row].any():
            right = exit_layer == depth and not output.sentence_embedding[row].any()
            wrong += [] if right else [f"row {row} has no tokens and no zero vector of layer {depth}"]
            continue
        states = _alone(bert, call, row, kept[row])[: depth + 1]
        pooled = np.stack([state.double().mean(dim=0).numpy() for state in states])  # p_0 .. p_D
        above = {
            layer: row_cosines(pooled[layer], pooled[layer - config.exit_patience]) - theta
            for layer, theta in tested.items()
        }
        expected = next((layer for layer, excess in above.items() if excess >= 0), depth)
        last = max(exit_layer, expected)
        if exit_layer != expected and any(
            abs(excess) <= TIE_BAND for layer, excess in above.items() if layer <= last
        ):
            tied += 1
            expected = exit_layer
        state = _landed(bert, states[expected], config.landing_layer, expected, depth)
        complaint = _compare(output, row, kept[row], expected, state)
        wrong += [complaint] if complaint else []
    return Verdict(len(exits), tied, wrong, exits)


def _alone(bert: BertModel, call: Mapping[str, Any], row: int, kept: Tensor) -> tuple[Tensor, ...]:
    """The hidden states (t, H) of a row's t tokens by themselves, at the positions that they have."""

    def of_row(name: str) -> Tensor | None:
        tensor = call.get(name)
        return None if tensor is None else tensor[min(row, len(tensor) - 1)][kept][None]

    positions = of_row("position_ids")
    with torch.inference_mode():
        output = bert(
            input_ids=of_row("input_ids"),
            inputs_embeds=of_row("inputs_embeds"),
            token_type_ids=of_row("token_type_ids"),
            position_ids=kept.nonzero().T if positions is None else positions,
            output_hidden_states=True,
        )
    return tuple(state[0] for state in output.hidden_states)


def _landed(bert: BertModel, state: Tensor, landing: int | None, left: int, depth: int) -> Tensor:
    """The last state (t, H) of a row that converged at layer `left` and went on at `landing`."""
    if landing is None or landing > depth or left == depth:
        return state
    with torch.inference_mode():
        for layer in bert.encoder.layer[landing - 1 : depth]:
            found = layer(state[None])
            state = (found[0] if isinstance(found, tuple) else found)[0]  # a tuple in transformers 4
    return state


def _compare(output: LeapModelOutput, row: int, kept: Tensor, expected: int, wanted: Tensor) -> str | None:
    """What is wrong with a row; None if it is right."""
    if output.exit_layer[row] != expected:
        return f"row {row} left at layer {int(output.exit_layer[row])}, not {expected}"
    # Written so that NaN, which is below nothing, is wrong.
    pooled = wanted.double().mean(dim=0)
    embedding = (output.sentence_embedding[row].double() - pooled).abs().max()
    if not embedding <= TOLERANCE:
        return f"row {row} has another embedding, by {embedding:.1e}"
    state = (output.last_hidden_state[row][kept] - wanted).abs().max()
    # A few tokens of trained models have components of the order of 10, which rounding moves more.
    if not state <= TOLERANCE * max(1.0, float(wanted.abs().max())):
        return f"row {row} has another last_hidden_state, by {state:.1e}"
    if not output.last_hidden_state[row].isfinite().all():
        return f"row {row} has padding that is not finite"
    return None
