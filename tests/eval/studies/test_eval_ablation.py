"""The ablation: every objective trains from the same start."""

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from eval.studies.ablation import Variant, run_ablation
from leap.distill.recipes import LEAP, PAPER
from leap.encode.encoder import Encoder
from leap.text.sets import StsData
from leap.text.tokens import TextSource, TokenCache


@pytest.mark.real_weights
def test_runs_start_alike_and_differ_after(
    tmp_path: Path, make_tiny_model: object, teacher_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(teacher_path)
    encoder = Encoder("tiny", make_tiny_model(vocab_size=len(tokenizer)).eval(), tokenizer, 32)
    texts = [f"text {i} " * (i % 5 + 1) for i in range(24)]
    (tmp_path / "t.txt").write_text("\n".join(texts))
    cache = TokenCache.build([TextSource(str(tmp_path / "t.txt"))], tokenizer, 32, tmp_path / "cache")
    sts = StsData("toy", texts[:4], texts[4:8], np.arange(4.0), "")
    variants = {
        "paper": Variant(PAPER),
        "again": Variant(PAPER),
        "leap": Variant(LEAP),
        "short": Variant(LEAP, "1,2"),
    }
    runs = run_ablation(encoder, cache, sts, steps=3, batch_size=8, variants=variants)["runs"]
    assert list(runs) == ["teacher", *variants]
    assert runs["teacher"]["cosine_to_teacher"][-1] == 1
    paper, again, leap, short = (runs[name]["cosine_to_teacher"] for name in variants)
    assert paper == again
    assert paper != leap
    assert paper != runs["teacher"]["cosine_to_teacher"]
    assert len(short) == 2
