"""The metric ranks cosines."""

import numpy as np
import pytest

from eval.quality.cosine_spearman import CosineSpearman


def test_metric_class_ranks_cosines_not_dot_products() -> None:
    first = np.array([[1, 0], [1, 0], [1, 0], [1, 0]], dtype=np.float32)
    angles = np.radians([10, 50, 30, 80])
    length = np.array([1, 9, 5, 2])  # dot products rank otherwise
    second = (np.stack([np.cos(angles), np.sin(angles)], axis=1) * length[:, None]).astype(np.float32)
    metric = CosineSpearman(keep_in_memory=True)
    # Cosines rank 4 2 3 1, gold 4 3 2 1: 0.8 as above.
    for _ in range(2):  # an evaluate.Metric can be asked again
        found = metric.compute(embeddings1=first, embeddings2=second, references=[5, 4, 3, 1])
        assert found == {"cosine_spearman": pytest.approx(0.8)}
