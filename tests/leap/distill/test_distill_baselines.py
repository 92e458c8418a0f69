"""Each baseline's loss against numbers worked out by hand, and sentence-transformers' on our weights."""

import math
import random
from collections.abc import Callable

import eval_toys
import pytest
import torch
from torch import Tensor

from leap.distill.baselines import adaptive_layers, hidden_mse, map_kl, value_relations, watch_values
from leap.distill.students import freeze, make_student
from modeling_leap import LeapModel

MASK = torch.tensor([[1, 1], [1, 0]])  # three tokens, and one of padding


def test_hidden_mse_is_over_tokens_and_not_over_padding() -> None:
    teacher = torch.zeros(2, 2, 2)
    student = torch.tensor([[[1.0, 1.0], [2.0, 0.0]], [[0.0, 0.0], [9.0, 9.0]]])
    assert hidden_mse([student], [teacher], MASK).item() == pytest.approx((1 + 2 + 0) / 3)
    assert hidden_mse([student.bfloat16()], [teacher], MASK).dtype == torch.float32


def test_hidden_mse_meets_the_layer_at_the_same_relative_depth() -> None:
    student = [torch.full((2, 2, 2), value) for value in (1.0, 2.0)]
    teacher = [torch.full((2, 2, 2), value) for value in (9.0, 0.0, 9.0, 5.0)]
    assert hidden_mse(student, teacher, MASK).item() == pytest.approx(((1 - 0) ** 2 + (2 - 5) ** 2) / 2)


def test_map_kl() -> None:
    # Of the first text each row is a map of its own; of the second there is one token, sure of itself.
    teacher = torch.tensor([[[[0.5, 0.5], [1.0, 0.0]]], [[[1.0, 0.0], [0.3, 0.7]]]])
    student = torch.tensor([[[[0.25, 0.75], [0.5, 0.5]]], [[[1.0, 0.0], [0.7, 0.3]]]]).requires_grad_()
    rows = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75), math.log(1 / 0.5), 0.0
    value = map_kl([student], [teacher], MASK)
    assert value.item() == pytest.approx(sum(rows) / 3)
    assert map_kl([teacher, student], [teacher, teacher], MASK).item() == pytest.approx(value.item() / 2)
    value.backward()
    assert student.grad.isfinite().all()
    assert student.grad[1, 0, 1].abs().sum() == 0  # padding


def test_value_relations() -> None:
    values = torch.tensor([[[1.0, 2.0], [3.0, 0.0]], [[5.0, 1.0], [9.0, 9.0]]])
    relations = value_relations(values, 2, MASK)
    assert relations.shape == (2, 2, 2, 2)
    # Heads of one unit: head 1 has the products 1, 3 and 3, 9; head 2 has 4, 0 and 0, 0.
    first, second = relations[0]
    expected = [1 / (1 + math.exp(2)), 1 / (1 + math.exp(6))]
    assert first[:, 0].tolist() == pytest.approx(expected, rel=1e-5)
    assert second[:, 0].tolist() == pytest.approx([1 / (1 + math.exp(-4)), 0.5])
    assert relations[1, :, 0].tolist() == [[1.0, 0.0], [1.0, 0.0]]
    whole = value_relations(values, 1, MASK)[0, 0, 0]  # one head of two units: 5 and 3, over sqrt(2)
    assert whole[0].item() == pytest.approx(1 / (1 + math.exp(-2 / math.sqrt(2))))


def test_values_are_watched_only_within(tiny_model: LeapModel, tiny_batch: dict[str, Tensor]) -> None:
    with watch_values(tiny_model) as values:
        states = tiny_model(**tiny_batch, output_hidden_states=True).hidden_states
    tiny_model(**tiny_batch)
    assert len(values) == 6
    projection = tiny_model.encoder.layer[2].attention.self.value
    torch.testing.assert_close(values[2], projection(states[2]))


def test_adaptive_layers_is_of_the_students_weights(make_tiny_model: Callable[..., LeapModel]) -> None:
    tokenizer = eval_toys.toy_tokenizer()
    student = make_student(make_tiny_model(vocab_size=len(tokenizer), num_hidden_layers=2)).train()
    freeze(student)
    ids = torch.tensor([[2, 7, 9, 3], [2, 8, 3, 0]])
    mask = (ids != 0).long()
    teacher = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    layers = student(ids, attention_mask=mask, output_hidden_states=True)
    loss = adaptive_layers(student, tokenizer)
    assert not student.embeddings.word_embeddings.weight.requires_grad

    def unit(states: Tensor) -> Tensor:
        weights = mask.unsqueeze(-1)
        pooled = (states * weights).sum(dim=1) / weights.sum(dim=1)
        return pooled / pooled.norm(dim=-1, keepdim=True)

    target = teacher / teacher.norm(dim=-1, keepdim=True)
    random.seed(0)
    sampled = random.sample(range(2), 1)[0]
    below, last = unit(layers.hidden_states[sampled]), unit(layers.hidden_states[-1])
    wanted, given = (last / 0.3).softmax(-1), (below / 0.3).softmax(-1)
    divergence = (wanted * (wanted / given).log()).sum() / 2
    expected = (last - target).square().mean() + (below - target).square().mean() + 0.3 * divergence
    random.seed(0)
    value = loss(ids, mask, teacher)
    assert value.item() == pytest.approx(expected.item(), abs=1e-6)

    value.backward()
    trained = [parameter for parameter in student.encoder.parameters() if parameter.grad is not None]
    assert len(trained) == len(list(student.encoder.parameters()))
    before = student(ids, attention_mask=mask).sentence_embedding
    with torch.no_grad():
        for parameter in trained:
            parameter.sub_(0.1 * parameter.grad)
    assert not torch.equal(student(ids, attention_mask=mask).sentence_embedding, before)
    random.seed(0)
    assert loss(ids, mask, teacher).item() < value.item()
