"""Timing: variants in turns, and the model's steps one by one are its forward pass."""

import time
from collections.abc import Callable

import pytest
import tiny_data
import torch

from eval.speed.timing import enter, in_turns, timed_inference, tokenize
from leap.encode.encoder import Encoder
from modeling_leap import LeapModel


def test_variants_take_turns_and_the_warm_up_is_not_counted() -> None:
    calls: list[tuple[str, int]] = []

    def variant(name: str, seconds: float) -> Callable[[int], int]:
        def call(number: int) -> int:
            calls.append((name, number))
            time.sleep(seconds)
            return number

        return call

    variants = {"a": variant("a", 0), "b": variant("b", 0.003)}
    times, results = in_turns(variants, rounds=3, warm_up=1, device=torch.device("cpu"))
    assert calls == [(name, number) for number in (2, 0, 1, 2) for name in "ab"]
    assert results == {"a": [0, 1, 2], "b": [0, 1, 2]}
    assert times["a"].shape == times["b"].shape == (3,)
    assert (times["b"] >= 3).all()
    assert (times["a"] >= 0).all()


def test_rounds_end_with_the_time_given() -> None:
    def call(number: int) -> int:
        time.sleep(0.02)
        return number

    def rounds(seconds: float, at_least: int) -> int:
        variants = {"a": call}
        device = torch.device("cpu")
        times, _ = in_turns(variants, rounds=6, warm_up=1, device=device, seconds=seconds, at_least=at_least)
        return len(times["a"])

    assert rounds(0, 3) == 3
    assert rounds(0.03, 1) == 2  # the second began in time; the warm-up's time does not count
    assert rounds(60, 1) == 6


def test_inference_and_the_mode_afterwards(tiny_model: LeapModel) -> None:
    tiny_model.train()
    with pytest.raises(KeyError), timed_inference(tiny_model):
        assert not tiny_model.training
        assert torch.is_inference_mode_enabled()
        raise KeyError
    assert tiny_model.training
    assert not torch.is_inference_mode_enabled()


def test_the_steps_make_the_forward_pass(make_tiny_model: Callable[..., LeapModel]) -> None:
    encoder = Encoder("tiny", make_tiny_model(exit_patience=2), tiny_data.tiny_tokenizer(), 40)
    inputs = tokenize(encoder, ["a cat sat", "the dog ran in the rain"])
    with timed_inference(encoder.model):
        wanted = encoder.model(**inputs)
        batch = enter(encoder.model, inputs)
        for layer in encoder.model.encoder.layer:
            batch.run(layer)
        batch.pool()
    batch.join()
    torch.testing.assert_close(batch.hidden, wanted.last_hidden_state)
    torch.testing.assert_close(batch.pool(), wanted.sentence_embedding)
    assert batch.exit_layer.tolist() == [6, 6]
    assert batch.patience == 2


def test_texts_are_cut(tiny_model: LeapModel) -> None:
    encoder = Encoder("tiny", tiny_model, tiny_data.tiny_tokenizer(), 6)
    texts = ["a cat sat on the mat", "a cat"]
    assert tokenize(encoder, texts)["input_ids"].shape == (2, 6)
    assert tokenize(encoder, texts, 4)["attention_mask"].tolist() == [[1, 1, 1, 1]] * 2
