"""What the teacher says of a batch of texts."""

import torch
from torch import Tensor

from leap.distill.objective import Targets
from modeling_leap import LeapModel


@torch.no_grad()
def teacher_targets(teacher: LeapModel, input_ids: Tensor, attention_mask: Tensor) -> Targets:
    """Pooled embeddings of all teacher layers and its last token states, for (B, T) ids and mask."""
    output = teacher(input_ids, attention_mask=attention_mask, output_layer_embeddings=True)
    return Targets(output.layer_embeddings[:, 1:], output.last_hidden_state)
