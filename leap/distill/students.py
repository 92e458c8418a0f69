"""Make a student from a teacher: which layers it starts from decides more than the loss does.

A start is written as one item a student layer: `6` copies layer 6 of the source, counted from 1. `6a,6f`
splits layer 6 into two student layers, its attention half and its feed-forward half: a student of twice the
source's depth that starts by computing exactly what the source does (`_start_as_half`).
"""

import itertools
import re
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import BertModel

from configuration_leap import LeapConfig
from leap.distill.objective import States
from modeling_leap import LeapModel

_ITEM = re.compile(r"([0-9]+)([af])?")
_HALVES = {"a": "attention", "f": "feed-forward"}


@dataclass(frozen=True)
class LayerStart:
    """Where one student layer starts from.

    Attributes:
        source: the layer of the source model, counted from 1.
        half: which half of the source's layer it starts as; None: the whole.
    """

    source: int
    half: Literal["attention", "feed-forward"] | None = None


def parse_layer_starts(spec: str) -> list[LayerStart]:
    """Read a start such as `1,5,6` or `1a,1f,2a,2f`.

    Raises:
        ValueError: an item is not of the form `N`, `Na` or `Nf` with N >= 1, or a half is without the other
            half of its layer.
    """
    starts = []
    for item in spec.split(","):
        found = _ITEM.fullmatch(item.strip())
        if not found or int(found[1]) < 1:
            raise ValueError(
                f"student_layers: {item.strip()!r} is no layer N and no half Na, Nf; write for example 1,5,6"
            )
        starts.append(LayerStart(int(found[1]), _HALVES.get(found[2])))
    for below, start in itertools.pairwise([None, *starts, None]):
        opens, closes = _half_of(below, "attention"), _half_of(start, "feed-forward")
        if opens != closes:
            layer = opens or closes
            raise ValueError(
                f"student_layers: the halves of layer {layer} go together, attention first: "
                f"write {layer}a,{layer}f"
            )
    return starts


def _half_of(start: LayerStart | None, half: str) -> int | None:
    """Which layer `start` is this half of; None where it is not one."""
    return start.source if start and start.half == half else None


EXIT_FIELDS = ("exit_threshold", "min_exit_layer", "exit_patience", "landing_layer", "max_exit_layer")


def make_student(source: BertModel, starts: list[LayerStart] | None = None) -> LeapModel:
    """A LeapModel whose embeddings and layers start from those of `source`.

    Dropout is off in it: the target is a fixed function of the text, and noise only slows its imitation.

    Args:
        source: the teacher, or another BERT checkpoint.
        starts: one item a student layer; None copies all layers of the source in their order.

    Raises:
        ValueError: a start names a layer that the source does not have.
    """
    starts = starts or [LayerStart(layer) for layer in range(1, source.config.num_hidden_layers + 1)]
    highest, layers = max(start.source for start in starts), source.config.num_hidden_layers
    if highest > layers:
        raise ValueError(f"student_layers: layer {highest} asked for, but the source model has only {layers}")
    fields = source.config.to_dict()
    for name in (*EXIT_FIELDS, "architectures", "auto_map"):
        fields.pop(name, None)  # of the source's own depth or class
    fields |= {
        "num_hidden_layers": len(starts),
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    config = LeapConfig(**fields)
    config._attn_implementation = source.config._attn_implementation
    student = LeapModel(config)
    student.embeddings.load_state_dict(source.embeddings.state_dict())
    for start, layer in zip(starts, student.encoder.layer, strict=True):
        layer.load_state_dict(source.encoder.layer[start.source - 1].state_dict())
        if start.half is not None:
            _start_as_half(layer, start.half)
    return student


@torch.no_grad()
def _start_as_half(layer: nn.Module, half: str) -> None:
    """Leave of a BERT layer what one half does, so that both after one another do what the layer does.

    A layer is x = LN_1(h + attention(h)), then LN_2(x + feed-forward(x)), and LN_1 is g * n + b of the
    normalised n. Normalising n again changes nothing (x would lose its own mean and variance), so the
    attention half ends in n, its two LayerNorms being plain, and the feed-forward half, whose attention adds
    nothing, makes x of it by its own LN_1. What is silenced are output projections alone: they have a
    gradient from the first step on.
    """
    silenced = layer.output if half == "attention" else layer.attention.output
    silenced.dense.weight.zero_()
    silenced.dense.bias.zero_()
    if half == "attention":
        for norm in (layer.attention.output.LayerNorm, layer.output.LayerNorm):
            norm.weight.fill_(1.0)
            norm.bias.zero_()


class Distilled(nn.Module):
    """A student in training: what it gives for a batch, at full depth and at its exits.

    Args:
        student: the model to train; its config says where texts leave and land.
        first_exit_layer: without a landing layer, the first layer whose output counts as an exit's.
        full_depth_every: with a landing layer, one in so many texts of a batch runs full depth, too. It is
            close to the teacher from the start, and costs twice what the exits do.
    """

    def __init__(self, student: LeapModel, first_exit_layer: int = 1, full_depth_every: int = 1) -> None:
        super().__init__()
        self.student = student
        self.first_exit_layer = first_exit_layer
        self.full_depth_every = full_depth_every

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> States:
        """The states of B texts of T tokens, for (B, T) ids and mask."""
        config, depth = self.student.config, self.student.config.num_hidden_layers
        landing = config.landing_layer
        if landing is None:
            leaves, rows = list(range(self.first_exit_layer, depth + 1)), slice(None)
        else:
            leaves = list(config.exit_thresholds(exit_threshold=-1.0))
            rows = slice(None, None, self.full_depth_every)
        kept = attention_mask.bool()
        hidden = self.student.embeddings(input_ids=input_ids)
        mask = self.student.layer_mask(hidden, kept)

        # All texts run the layers that they may leave at; some go on to full depth.
        states = [hidden, *self._run(hidden, mask, range(1, leaves[-1] + 1))]
        pooled = torch.stack([mean_pool(state, kept) for state in states], dim=1)
        deep_mask = None if mask is None else mask[rows]
        deep = self._run(states[-1][rows], deep_mask, range(leaves[-1] + 1, depth + 1))
        layers = [pooled[rows, 1:], *(mean_pool(state, kept[rows]).unsqueeze(1) for state in deep)]

        exit_tokens, exits = [states[layer] for layer in leaves], pooled[:, leaves]
        if landing is not None:
            exit_tokens = [self._run(state, mask, range(landing, depth + 1))[-1] for state in exit_tokens]
            exits = torch.stack([mean_pool(state, kept) for state in exit_tokens], dim=1)
        before = [max(layer - config.exit_patience, 0) for layer in leaves]
        return States(
            layers=torch.cat(layers, dim=1),
            tokens=[*states, *deep][-1],
            rows=rows,
            exits=exits,
            early=len(leaves) - (landing is None),
            signals=torch.cosine_similarity(pooled[:, leaves], pooled[:, before], dim=-1),
            exit_tokens=exit_tokens,
            mask=kept,
        )

    def _run(self, hidden: Tensor, mask: Tensor | None, layers: range) -> list[Tensor]:
        """The outputs of layers, numbered from 1, one after the other."""
        outputs = []
        for number in layers:
            output = self.student.encoder.layer[number - 1](hidden, mask)
            hidden = output[0] if isinstance(output, tuple) else output  # a tuple in transformers 4
            outputs.append(hidden)
        return outputs


def mean_pool(tokens: Tensor, mask: Tensor) -> Tensor:
    """(B, H) float32, the mean over the tokens of a text, of (B, T, H) states and a (B, T) bool mask."""
    weights = mask.unsqueeze(-1).float()
    return (tokens.float() * weights).sum(dim=1) / weights.sum(dim=1)


def parameter_groups(student: LeapModel, word_embedding_rate: float) -> list[dict[str, Any]]:
    """The parameters to train, for an optimizer, each group with its `rate`, a share of the learning rate.

    A word is met rarely, and Adam then moves its embedding as far as one that is met in every batch: at the
    rate of the other weights, rare words would be noise.

    Args:
        student: whose word embeddings are frozen where their rate is 0.
        word_embedding_rate: of the word embeddings; all else has 1.
    """
    words = student.embeddings.word_embeddings.weight.requires_grad_(word_embedding_rate > 0)
    others = [weight for weight in student.parameters() if weight.requires_grad and weight is not words]
    groups = [{"params": others, "rate": 1.0}]
    return [*groups, {"params": [words], "rate": word_embedding_rate}] if word_embedding_rate else groups
