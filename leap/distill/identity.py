"""What a run is: its options, and the content of everything it was given."""

import hashlib
from dataclasses import asdict

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase

from leap.distill.objective import ObjectiveConfig
from leap.distill.options import TrainOptions
from leap.text.tokens import TokenRows, tokenizer_sha256


def run_identity(
    options: TrainOptions,
    objective: ObjectiveConfig,
    teacher: nn.Module,
    student: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: TokenRows,
    texts: np.ndarray,
    processes: int,
) -> dict[str, object]:
    """What a checkpoint must have in common with the run that goes on from it, as JSON values.

    Texts are compared as their tokens, so that files may move between sessions. Names say nothing.

    Args:
        options: of the run.
        objective: its terms.
        teacher: as loaded.
        student: at its start.
        tokenizer: of both.
        rows: tokens of all texts.
        texts: indices of those trained on.
        processes: how many there are.
    """
    return options.identity() | {
        "objective": asdict(objective),
        "processes": processes,
        "texts": len(texts),
        "texts_sha256": _digest(rows.ids, rows.offsets, texts),
        "teacher_sha256": weights_digest(teacher),
        "student_sha256": weights_digest(student),
        "tokenizer_sha256": tokenizer_sha256(tokenizer),
    }


def weights_digest(model: nn.Module) -> str:
    """sha256, in hex, of the names and values of a model's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()
