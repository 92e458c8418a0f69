"""Training throughput: every variant takes its step."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from eval.speed.throughput import VARIANTS, measure_throughput
from leap.encode.encoder import Encoder
from leap.text.reading import TextSource
from leap.text.tokens import TokenCache


@pytest.mark.real_weights
def test_every_variant_is_timed(tmp_path: Path, make_tiny_model: object, teacher_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(teacher_path)
    encoder = Encoder("tiny", make_tiny_model(vocab_size=len(tokenizer)).eval(), tokenizer, 64)
    (tmp_path / "t.txt").write_text("\n".join(f"text {i} " * (i % 5 + 1) for i in range(24)))
    cache = TokenCache.build([TextSource(str(tmp_path / "t.txt"))], tokenizer, 64, tmp_path / "cache")
    figures = measure_throughput(encoder, cache, batch_tokens=60, rounds=2)
    assert list(figures["variants"]) == list(VARIANTS)
    assert figures["variants"]["plain"]["ratio"] == 1.0
    assert all(len(row["tokens_per_second"]) == 2 for row in figures["variants"].values())
