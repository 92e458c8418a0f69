"""Make a student from a teacher: which layers it starts from decides more than the loss does.

A start is written as one item a student layer: `6` copies layer 6 of the source (counted from 1), `6~` copies
it near the identity: its output passes almost unchanged through it at first, so that a tail of such layers
starts as good as the layers below and has only to refine them. `6~0.3` says how much of the layer's own
update is let through (0.1 where nothing is said). `t6` is layer 6 of the teacher where the source is another
model: a tail of the teacher's own layers on a trunk that is trained already.

`6a,6f` splits layer 6 into two student layers, its attention half and its feed-forward half: a student of
twice the source's depth that starts by computing exactly what the source does (`_start_as_half`).
"""

import itertools
import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from transformers import BertModel

from configuration_leap import LeapConfig
from modeling_leap import LeapModel

DEFAULT_UPDATE_SCALE = 0.1

# t, N, and one of: nothing, a half, ~ with a scale or without.
_ITEM = re.compile(r"(t?)([0-9]+)(?:([af])|(~)(.*))?")
_HALVES = {"a": "attention", "f": "feed-forward"}


@dataclass(frozen=True)
class LayerStart:
    """Where one student layer starts from.

    Attributes:
        source: the layer of the source model, counted from 1.
        of_teacher: it is a layer of the teacher, even where the student starts from another model.
        update_scale: None for a plain copy; otherwise the layer starts near the identity and this factor in
            (0, 1] scales the output projections of its attention and feed-forward halves.
        half: which half of the source's layer it starts as; None: the whole.
    """

    source: int
    update_scale: float | None = None
    of_teacher: bool = False
    half: Literal["attention", "feed-forward"] | None = None


def parse_layer_starts(spec: str) -> list[LayerStart]:
    """Read a start such as `1,3,6,6~,6~0.3`, `1,2,3,t4,t5,t6` or `1a,1f,2a,2f`.

    Raises:
        ValueError: an item is not of the form `N`, `N~`, `N~SCALE`, `Na` or `Nf`, each with or without a `t`
            before it, with N >= 1 and SCALE in (0, 1]; or a half is without the other half of its layer.
    """
    starts = []
    for item in spec.split(","):
        start = _parse_item(item.strip())
        if start is None:
            raise ValueError(
                f"student_layers: {item.strip()!r} is not a layer N, N~ or N~SCALE with SCALE in (0, 1], nor "
                "a half Na or Nf; write for example 1,3,6,6~,6~0.3, and tN for a layer of the teacher"
            )
        starts.append(start)
    if starts[0].update_scale is not None:
        raise ValueError(
            "student_layers: the first layer cannot start near the identity (there is none below it); "
            "drop the ~ of the first item"
        )
    for below, start in itertools.pairwise([None, *starts, None]):
        opens, closes = _half_of(below, "attention"), _half_of(start, "feed-forward")
        if opens != closes:
            layer = (opens or closes)[0]
            raise ValueError(
                f"student_layers: the halves of layer {layer} go together, attention first: "
                f"write {layer}a,{layer}f"
            )
    return starts


def _parse_item(item: str) -> LayerStart | None:
    """One item of a start; None where it is none."""
    found = _ITEM.fullmatch(item)
    if not found:
        return None
    teacher, layer, half, near, scale = found.groups()
    try:
        update_scale = (float(scale) if scale else DEFAULT_UPDATE_SCALE) if near else None
    except ValueError:
        return None
    if int(layer) < 1 or not (update_scale is None or 0 < update_scale <= 1):
        return None
    return LayerStart(int(layer), update_scale, bool(teacher), _HALVES.get(half))


def _half_of(start: LayerStart | None, half: str) -> tuple[int, bool] | None:
    """Which layer `start` is this half of; None where it is not one."""
    return (start.source, start.of_teacher) if start and start.half == half else None


def check_layer_starts(starts: list[LayerStart], n_layers: int) -> None:
    """Raise a ValueError when a start names a layer that a source of `n_layers` layers does not have."""
    highest = max((start.source for start in starts), default=0)
    if highest > n_layers:
        raise ValueError(
            f"student_layers: layer {highest} asked for, but the source model has only {n_layers}"
        )


def make_student(
    source: BertModel, starts: list[LayerStart] | None = None, teacher: BertModel | None = None
) -> LeapModel:
    """A LeapModel whose embeddings and layers start from those of `source`.

    Dropout is off in it: the target is a fixed function of the text, and noise only slows its imitation.

    Args:
        source: the teacher, or another BERT checkpoint.
        starts: one item a student layer; None copies all layers of the source in their order.
        teacher: whose layers the starts of the teacher copy; None: the source is the teacher.

    Raises:
        ValueError: a start names a layer that its model does not have, or one of a teacher of other widths.
    """
    starts = starts or [LayerStart(layer) for layer in range(1, source.config.num_hidden_layers + 1)]
    teacher = source if teacher is None else teacher
    from_teacher = [start for start in starts if start.of_teacher]
    check_layer_starts([start for start in starts if not start.of_teacher], source.config.num_hidden_layers)
    check_layer_starts(from_teacher, teacher.config.num_hidden_layers)
    widths = ("hidden_size", "intermediate_size", "num_attention_heads")
    if from_teacher and any(getattr(source.config, key) != getattr(teacher.config, key) for key in widths):
        raise ValueError(
            "student_layers: a layer of the teacher needs a student of the teacher's widths; leave out the t"
        )
    fields = source.config.to_dict()
    for name in ("exit_threshold", "min_exit_layer", "exit_patience", "architectures", "auto_map"):
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
    for index, start in enumerate(starts):
        layer = student.encoder.layer[index]
        model = teacher if start.of_teacher else source
        layer.load_state_dict(model.encoder.layer[start.source - 1].state_dict())
        if start.update_scale is not None:
            _start_near_identity(layer, student.encoder.layer[index - 1].output.LayerNorm, start.update_scale)
        if start.half is not None:
            _start_as_half(layer, start.half)
    return student


@torch.no_grad()
def _start_near_identity(layer: nn.Module, below: nn.LayerNorm, update_scale: float) -> None:
    """Scale a BERT layer's updates down and set its LayerNorms so that they pass on what comes in.

    BERT normalises after each residual sum. What comes in is g * n + b, of the LayerNorm below it, with n of
    mean 0 and variance 1 over the hidden units; its own mean is about mean(b) and its variance about
    mean(g^2) + var(b). Normalising takes these two away, so the layer's LayerNorms put them back.
    """
    scale = (below.weight.square().mean() + below.bias.var(correction=0)).sqrt()
    for half in (layer.attention.output, layer.output):
        half.dense.weight.mul_(update_scale)
        half.dense.bias.mul_(update_scale)
        half.LayerNorm.weight.fill_(scale)
        half.LayerNorm.bias.fill_(below.bias.mean())


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
    """A student and, where its width is not the teacher's, the linear map that training alone needs.

    Args:
        student: the model to train.
        teacher_width: hidden size of the teacher.
    """

    def __init__(self, student: LeapModel, teacher_width: int) -> None:
        super().__init__()
        self.student = student
        width = student.config.hidden_size
        self.projection = None if width == teacher_width else nn.Linear(width, teacher_width, bias=False)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Pooled embeddings of all student layers, (B, L, teacher_width) float32, for (B, T) ids and mask."""
        embeddings = self.student(
            input_ids, attention_mask=attention_mask, output_layer_embeddings=True
        ).layer_embeddings[:, 1:]
        return embeddings if self.projection is None else self.projection(embeddings).float()


def freeze(student: LeapModel, layers: int = 0) -> None:
    """Keep word embeddings as they are, and with `layers` also the rest below that many lowest layers.

    Word embeddings are half of the parameters, and a short run meets few of them. A lower part that is frozen
    needs no backward pass: the way to add a tail to a student that is trained already.

    Raises:
        ValueError: `layers` leaves nothing to train.
    """
    depth = student.config.num_hidden_layers
    if not 0 <= layers < depth:
        raise ValueError(
            f"frozen_layers must be in [0, {depth - 1}] for a student of {depth} layers, got {layers}"
        )
    student.embeddings.word_embeddings.weight.requires_grad_(False)
    if layers:
        student.embeddings.requires_grad_(False)
        student.encoder.layer[:layers].requires_grad_(False)
