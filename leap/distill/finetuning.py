"""Fine-tune a LEAP model with sentence-transformers and keep its exits worth taking.

A task's loss moves the embedding at full depth and asks nothing of what a text gives that skips layers: the
two drift apart. `ExitAwareLoss` adds the L_exit term of training, towards the model's own full depth as that
moves.
"""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import CoSENTLoss, MultipleNegativesRankingLoss
from torch import Tensor, nn
from transformers import TrainerCallback

from leap.distill.objective import ObjectiveConfig, exit_alignment
from leap.distill.release import set_max_length
from leap.folders import write_folder
from leap.text.pairs import PAIR_COLUMNS, Pairs
from leap.text.sets import STS_COLUMNS

L_EXIT = ObjectiveConfig(penalty="cosine")  # 1 - cos


@dataclass(frozen=True)
class FineTuning:
    """How to fine-tune.

    Attributes:
        exit_weight: of L_exit beside the task's loss; 0 leaves it out.
        epochs: passes over the pairs.
        max_steps: steps at most; None: as many as the epochs have.
        batch_size: pairs a step.
        learning_rate: its peak; it rises over a tenth of the steps and falls to 0.
        seed: of the order of the pairs.
    """

    exit_weight: float = 5.0
    epochs: float = 1.0
    max_steps: int | None = None
    batch_size: int = 32
    learning_rate: float = 2e-5
    seed: int = 0


class ExitAwareLoss(nn.Module):
    """A loss of sentence-transformers plus L_exit, for `SentenceTransformerTrainer`.

    L_exit is 1 - cos of what a text gives that leaves or leaps to what it gives at full depth, the latter
    without its gradient; a mean over the layers where the model's config lets texts leave. Each of these
    layers costs another forward pass of the layers that such a text runs.

    Args:
        model: a SentenceTransformer over a LeapModel.
        task: a loss with `compute_loss_from_embeddings`, such as CoSENTLoss or MultipleNegativesRankingLoss.
        exit_weight: of L_exit.

    Raises:
        ValueError: by its config no text of the model can leave before the last layer.
    """

    def __init__(self, model: SentenceTransformer, task: nn.Module, exit_weight: float) -> None:
        super().__init__()
        self.model = model
        self.network = model[0].auto_model
        self.task = task
        self.exit_weight = exit_weight
        config = self.network.config
        places, layers = config.exit_thresholds(-1.0), range(1, config.num_hidden_layers + 1)
        # A rule for each of these layers, by which all texts leave there and nowhere else.
        self.rules = [[-1.0 if layer == place else None for layer in layers] for place in places]
        if not self.rules:
            raise ValueError("model: by min_exit_layer of its config no text leaves before the last layer")

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            sentence_features: of each column of texts, what the model takes.
            labels: (B,) scores, for losses that have them.
        """
        columns = list(sentence_features)
        # Through the whole model, as it may be wrapped for several devices.
        full = [self.model(dict(column))["sentence_embedding"] for column in columns]
        loss = self.task.compute_loss_from_embeddings(full, labels)
        exits = torch.stack([self._leaving(columns, rule) for rule in self.rules], dim=1)
        return loss + self.exit_weight * exit_alignment(exits, torch.cat(full).detach(), L_EXIT)

    def _leaving(self, columns: list[dict[str, Tensor]], rule: list[float | None]) -> Tensor:
        """What the texts of all columns give by a rule, with gradient."""
        training = self.network.training
        self.network.eval()  # in training mode no text leaves
        outputs = [self.model({**column, "exit_threshold": rule}) for column in columns]
        self.network.train(training)
        return torch.cat([output["sentence_embedding"] for output in outputs])

    def get_config_dict(self) -> dict[str, Any]:
        """For the trainer's model card."""
        return {"task": type(self.task).__name__, "exit_weight": self.exit_weight}


def finetune(
    source: str, pairs: Pairs, folder: Path, settings: FineTuning, device: str | None = None
) -> float:
    """Fine-tune a model on pairs and save it, to be loaded as the one it came from.

    Pairs with scores train CoSENT, those without in-batch negatives.

    Args:
        source: folder or Hub id of a LEAP model.
        pairs: what to train on.
        folder: replaced as a whole when all is done.
        settings: how.
        device: torch's name of a device; None: the GPU where there is one.

    Returns:
        The loss of the last steps.
    """
    model = SentenceTransformer(
        source, trust_remote_code=True, device=device, model_kwargs={"dtype": torch.float32}
    )
    task = MultipleNegativesRankingLoss(model) if pairs.scores is None else CoSENTLoss(model)
    loss = ExitAwareLoss(model, task, settings.exit_weight) if settings.exit_weight else task
    columns = dict(zip(PAIR_COLUMNS, (pairs.first, pairs.second), strict=True))
    if pairs.scores is not None:
        columns = dict(zip(STS_COLUMNS, (pairs.first, pairs.second, pairs.scores.tolist()), strict=True))
    log = _Log()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=scratch,
            num_train_epochs=settings.epochs,
            max_steps=settings.max_steps or -1,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            warmup_steps=0.1,  # below 1 it is a share of all steps
            # With a text twice in a batch, its own positive would be among its negatives.
            batch_sampler="no_duplicates" if pairs.scores is None else "batch_sampler",
            use_cpu=model.device.type == "cpu",
            seed=settings.seed,
            save_strategy="no",
            logging_steps=10,
            report_to="none",
        )
        trainer = SentenceTransformerTrainer(
            model, arguments, train_dataset=Dataset.from_dict(columns), loss=loss, callbacks=[log]
        )
        trainer.train()
    with write_folder(folder) as partial:
        model.save_pretrained(str(partial), create_model_card=False)
        set_max_length(partial, model.max_seq_length)
    return log.last


class _Log(TrainerCallback):
    """Keeps the last loss that the trainer logged."""

    last = float("nan")

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        """Called by the trainer."""
        self.last = logs.get("loss", self.last)
