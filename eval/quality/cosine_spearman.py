"""The score of the STS tasks as a metric of Hugging Face's `evaluate`."""

import datasets
import evaluate
import numpy as np

from leap.encode.exits import row_cosines
from leap.encode.metrics import spearman


class CosineSpearman(evaluate.Metric):
    """Spearman's correlation of the cosine of two embeddings with the similarity that people gave.

    MTEB's `cosine_spearman`, the main score of the STS tasks. Needs nothing from the Hub:
    `CosineSpearman(keep_in_memory=True).compute(embeddings1=..., embeddings2=..., references=...)` takes two
    arrays (N, H) and N scores and returns `{"cosine_spearman": float}`.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__class__.__doc__,
            citation="",
            inputs_description="embeddings1, embeddings2: (N, H) floats; references: N gold similarities",
            features=datasets.Features(
                {
                    "embeddings1": datasets.List(datasets.Value("float32")),
                    "embeddings2": datasets.List(datasets.Value("float32")),
                    "references": datasets.Value("float64"),
                }
            ),
        )

    def _compute(
        self, embeddings1: list[list[float]], embeddings2: list[list[float]], references: list[float]
    ) -> dict[str, float]:
        cosines = row_cosines(np.asarray(embeddings1), np.asarray(embeddings2))
        return {"cosine_spearman": float(spearman(cosines, references))}
