"""How the student does while it learns: closeness to the teacher at full depth and at its exits, and STS."""

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from leap.distill.teacher import teacher_targets
from leap.text.sets import StsData
from modeling_leap import LeapModel

BATCH = 64


class Evaluation:
    """The sentences of an STS set with the teacher's embeddings of them.

    Args:
        teacher: in eval mode.
        tokenizer: of the teacher and the student.
        sts: sentence pairs with scores.
        max_length: tokens of a text.
    """

    def __init__(
        self, teacher: LeapModel, tokenizer: PreTrainedTokenizerBase, sts: StsData, max_length: int
    ) -> None:
        self.sts = sts
        texts = [*sts.first, *sts.second]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        self.rows = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
        self.batches = [
            tokenizer(
                [texts[i] for i in rows],
                padding=True,
                truncation=True,
                max_length=max_length,
                return_tensors="pt",
            ).to(teacher.device)
            for rows in self.rows
        ]
        self.teacher = self._in_order(
            [teacher_targets(teacher, b["input_ids"], b["attention_mask"]).final for b in self.batches]
        )

    def _in_order(self, parts: list[Tensor]) -> Tensor:
        found = torch.cat(parts).float()
        return torch.empty_like(found).index_copy_(
            0, torch.tensor([i for rows in self.rows for i in rows], device=found.device), found
        )

    @torch.inference_mode()
    def __call__(self, student: LeapModel) -> dict[str, float]:
        """Figures by name: errors 1 - cos to the teacher, Spearman, and what s tells of the error of an exit.

        Args:
            student: of any depth; left in the mode it was in.
        """
        config, training = student.config, student.training
        layer = min(config.exit_thresholds(exit_threshold=-1.0), default=config.num_hidden_layers)
        student.eval()
        full, exits, signals = [], [], []
        for batch in self.batches:
            ids, mask = batch["input_ids"], batch["attention_mask"]
            layers = student(ids, attention_mask=mask, output_layer_embeddings=True).layer_embeddings
            full.append(layers[:, -1])
            before = layers[:, max(layer - config.exit_patience, 0)]
            signals.append(torch.cosine_similarity(layers[:, layer], before, dim=-1))
            exits.append(student(ids, attention_mask=mask, exit_threshold=-1.0).sentence_embedding)
        student.train(training)

        figures: dict[str, float] = {}
        for name, parts in (("full", full), ("exits", exits)):
            embeddings = self._in_order(parts)
            error = (1 - torch.cosine_similarity(embeddings, self.teacher, dim=-1)).cpu().numpy()
            pairs = torch.cosine_similarity(*embeddings.chunk(2), dim=-1).cpu().numpy()
            figures[f"error/{name}"] = float(error.mean())
            figures[f"error_p95/{name}"] = float(np.quantile(error, 0.95))
            figures[f"spearman/{name}"] = float(spearmanr(pairs, self.sts.scores).statistic)
        signal = self._in_order(signals).cpu().numpy()
        figures["signal/rank_correlation"] = float(spearmanr(signal, -error).statistic)
        return {name: round(value, 5) for name, value in figures.items()}
