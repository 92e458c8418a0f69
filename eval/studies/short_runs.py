"""Short training runs on the same batches: what `ablation` and `baselines` have in common.

Forward and backward passes take bfloat16 by autocast and objectives float32. Attention is eager: baselines
read its maps, its backward pass on a CPU is faster than sdpa's, and short texts do not need sdpa.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm.auto import tqdm

from leap.distill.objective import Objective, ObjectiveConfig
from leap.distill.students import freeze, make_student, parse_layer_starts
from leap.distill.teacher import teacher_layers
from leap.encode.encoder import Encoder
from leap.text.tokens import TokenCache, length_grouped_batches
from modeling_leap import LeapModel

WARMUP = 0.1  # share of the steps


@dataclass(frozen=True)
class Batch:
    """B texts of T tokens, on the device.

    Attributes:
        ids: (B, T) int64.
        mask: (B, T) int64, 1 for a token and 0 for padding.
        teacher: (B, Lt, H) float32, the teacher's pooled embeddings after each of its layers.
    """

    ids: Tensor
    mask: Tensor
    teacher: Tensor


# The loss of a batch, a scalar with gradient, given the share of training done in [0, 1).
Loss = Callable[[Batch, float], Tensor]


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 on a CPU and on CUDA, for forward passes; elsewhere it changes nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type in ("cpu", "cuda"))


def frozen_teacher(teacher: Encoder) -> Encoder:
    """A copy whose model has eager attention and takes no gradients; students made from it are eager, too."""
    model = copy.deepcopy(teacher.model).eval().requires_grad_(False)
    model.config._attn_implementation = "eager"
    return replace(teacher, model=model)


def draw_batches(
    teacher: Encoder, cache: TokenCache, *, steps: int, batch_size: int, seed: int
) -> list[Batch]:
    """The batches of one run with all that the teacher's embeddings say of them, held in memory.

    Args:
        teacher: from `frozen_teacher`.
        cache: the texts, of which `seed` draws; fewer batches come of fewer than `steps * batch_size`.
        steps: how many batches.
        batch_size: texts of each.
        seed: of the draw.
    """
    device, batches = teacher.model.device, []
    for rows in length_grouped_batches(cache.lengths, batch_size, seed, 0)[:steps]:
        tokens = cache.batch(rows, teacher.tokenizer.pad_token_id)
        ids, mask = (tokens[name].to(device) for name in ("input_ids", "attention_mask"))
        with autocast(device):
            batches.append(Batch(ids, mask, teacher_layers(teacher.model, ids, mask)))
    return batches


def start_student(teacher: Encoder, start: str | None) -> LeapModel:
    """A student in train mode, word embeddings frozen.

    Args:
        teacher: from `frozen_teacher`.
        start: as `leap.distill.students.parse_layer_starts` reads it; None: a copy of the teacher.

    Raises:
        ValueError: a start that cannot be read, or a layer that the teacher does not have.
    """
    student = make_student(teacher.model, parse_layer_starts(start) if start else None)
    freeze(student)
    return student.to(teacher.model.device).train()


def objective_loss(student: LeapModel, config: ObjectiveConfig, seed: int) -> Loss:
    """The loss of `leap.distill.objective`, of layers that the student computes under autocast.

    Args:
        student: to train.
        config: weights and shapes of its terms.
        seed: of the layers that its mixed-depth term draws.
    """
    objective, generator = Objective(config), torch.Generator().manual_seed(seed)

    def loss(batch: Batch, share: float) -> Tensor:
        with autocast(student.device):
            layers = student(
                batch.ids, attention_mask=batch.mask, output_layer_embeddings=True
            ).layer_embeddings[:, 1:]
        return objective(layers, batch.teacher[:, -1], batch.teacher, share, generator)[0]

    return loss


def train(
    student: LeapModel,
    batches: Sequence[Batch],
    loss: Loss,
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    bar: tqdm,
) -> float:
    """Train with AdamW: warm-up over a tenth of the steps, then linearly to 0; gradients clipped to norm 1.

    Args:
        student: changed in place; its parameters that take gradients are trained.
        batches: one a step.
        loss: of a batch.
        learning_rate: highest.
        weight_decay: AdamW's.
        bar: moved on by one a step.

    Returns:
        The wall time in seconds.
    """
    since = time.perf_counter()
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=weight_decay)
    for step, batch in enumerate(batches):
        share = step / len(batches)
        rising, falling = (step + 1) / (WARMUP * len(batches)), (1 - share) / (1 - WARMUP)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1, rising, falling)
        loss(batch, share).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        bar.update(1)
    if student.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - since
