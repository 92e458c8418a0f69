"""Held-out texts are told by their content alone."""

import hashlib

import pytest

from leap.text.holdout import held_out


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("text number 56", True), ("text number 57", False), ("Straße 17", True), ("a", False)],
)
def test_the_rule_is_sha256_of_the_text_in_utf_8(text: str, wanted: bool) -> None:
    assert held_out(text) is wanted
    assert (int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 100 == 0) is wanted


def test_one_text_in_a_hundred_is_held_out_and_always_the_same() -> None:
    texts = [f"text number {i}" for i in range(20_000)]
    out = [text for text in texts if held_out(text)]
    assert 140 < len(out) < 260  # 200, and four standard deviations
    assert out == [text for text in reversed(texts) if held_out(text)][::-1]
