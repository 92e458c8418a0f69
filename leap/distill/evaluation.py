"""How the student does while it learns: closeness to the teacher at full depth and at its exits, and STS."""

from dataclasses import replace

import numpy as np

from leap.encode.encoder import Encoder, encode
from leap.encode.exits import row_cosines
from leap.encode.metrics import error_statistics, spearman
from leap.encode.paths import encode_paths
from leap.text.sets import StsData
from modeling_leap import LeapModel


class Evaluation:
    """The sentences of an STS set with the teacher's embeddings of them.

    Args:
        teacher: the teacher, with its tokenizer and the length of texts.
        sts: sentence pairs with scores.
    """

    def __init__(self, teacher: Encoder, sts: StsData) -> None:
        self.teacher, self.sts = teacher, sts
        self.texts = [*sts.first, *sts.second]
        self.targets = encode(teacher, self.texts, exit_threshold=None).embeddings

    def __call__(self, student: LeapModel) -> dict[str, float]:
        """Figures by name: errors 1 - cos to the teacher, Spearman, and what s tells of the error of an exit.

        Args:
            student: of any depth; left in the mode it was in.
        """
        paths = encode_paths(replace(self.teacher, name="student", model=student), self.texts)
        figures: dict[str, float] = {}
        for name, embeddings in {"full": paths.full, "exits": paths.leap}.items():
            errors = error_statistics(1 - row_cosines(embeddings, self.targets))
            figures |= {f"error/{name}": errors["mean"], f"error_p95/{name}": errors["p95"]}
            pairs = row_cosines(*np.split(embeddings, 2))
            figures[f"spearman/{name}"] = float(spearman(pairs, self.sts.scores))
        if len(paths.layers):
            closeness = row_cosines(paths.leap, self.targets)
            figures["signal/rank_correlation"] = float(spearman(paths.cosines[:, 0], closeness))
        return {name: round(float(np.nan_to_num(value)), 5) for name, value in figures.items()}
