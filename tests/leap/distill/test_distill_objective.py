"""Each term of the objective against numbers worked out by hand."""

import math

import pytest
import torch

from leap.distill import objective as terms
from leap.distill.objective import Objective, ObjectiveConfig
from leap.distill.recipes import RECIPES

# One text, two student layers: cosines to the teacher 0.6 and 0.8, and 0.96 between the two layers.
LAYERS = torch.tensor([[[0.6, 0.8], [0.8, 0.6]]])
TEACHER = torch.tensor([[1.0, 0.0]])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_final_alignment() -> None:
    assert terms.final_alignment(LAYERS, 5 * TEACHER).item() == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("students", "teachers", "expected"),
    [(6, 6, [1, 2, 3, 4, 5, 6]), (3, 6, [2, 4, 6]), (12, 24, list(range(2, 25, 2))), (4, 6, [2, 3, 5, 6])],
)
def test_layer_map(students: int, teachers: int, expected: list[int]) -> None:
    assert terms.layer_map(students, teachers) == expected


def test_inner_alignment_leaves_the_last_layer_to_the_final_term() -> None:
    inner = torch.tensor([[[0.0, 1.0], [-1.0, 0.0]]])  # cos with layer 1: 0.8; layer 2 would give -0.8
    assert terms.inner_alignment(LAYERS, inner).item() == pytest.approx(0.2)


def test_exit_to_teacher_is_the_papers() -> None:
    expected = (sigmoid(10 * (0.98 - 0.6)) + sigmoid(10 * (0.98 - 0.8))) / 2
    value = terms.exit_to_teacher(LAYERS, TEACHER, ObjectiveConfig(), slope=10)
    assert value.item() == pytest.approx(expected, abs=1e-6)


def test_exit_to_teacher_with_linear_term_weights_and_first_layer() -> None:
    config = ObjectiveConfig(linear=2.0, layer_weights="linear")
    low, high = (sigmoid(3 * (0.98 - cosine)) + 2 * (1 - cosine) for cosine in (0.6, 0.8))
    value = terms.exit_to_teacher(LAYERS, TEACHER, config, slope=3)
    assert value.item() == pytest.approx((1 / 1.5 * low + 2 / 1.5 * high) / 2, abs=1e-6)
    only_second = ObjectiveConfig(first_exit_layer=2)
    value = terms.exit_to_teacher(LAYERS, TEACHER, only_second, slope=10)
    assert value.item() == pytest.approx(sigmoid(1.8), abs=1e-6)


def test_exit_to_own_final_gives_the_last_layer_no_gradient() -> None:
    layers = LAYERS.clone().requires_grad_()
    value = terms.exit_to_own_final(layers, ObjectiveConfig(), slope=10)
    assert value.item() == pytest.approx(sigmoid(10 * (0.98 - 0.96)), abs=1e-6)
    value.backward()
    assert layers.grad[0, 0].abs().sum() > 0
    assert layers.grad[0, 1].abs().sum() == 0


def test_similarity_kl() -> None:
    # Three texts; row 1 of the student puts its two others level, the teacher's puts them at cosines 1 and 0.
    student = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8]])
    teacher = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    p = math.exp(1 / 0.5) / (math.exp(1 / 0.5) + 1)
    first_row = p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5)
    value = terms.similarity_kl(student[:1], student, teacher[:1], teacher, temperature=0.5)
    assert value.item() == pytest.approx(first_row, abs=1e-6)
    third_of_all = terms.similarity_kl(student[2:], student, teacher[2:], teacher, 0.5, first_column=2)
    rows = [
        terms.similarity_kl(student[i : i + 1], student, teacher[i : i + 1], teacher, 0.5, i) for i in (0, 1)
    ]
    whole = terms.similarity_kl(student, student, teacher, teacher, 0.5)
    assert whole.item() == pytest.approx((sum(rows) + third_of_all).item() / 3, abs=1e-6)


def test_mixed_depth_relation() -> None:
    mixed = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # Among themselves: 0.6 where the teacher has 0, twice in four. Across: rows (1, 0), (0.6, 0.8) against
    # the teacher's (1, 0), (0, 1): errors 0, 0, 0.6, -0.2.
    expected = 2 * 0.36 / 4 + (0.36 + 0.04) / 4
    assert terms.mixed_depth_relation(mixed, mixed, teacher, teacher).item() == pytest.approx(
        expected, abs=1e-6
    )


def test_exit_signal() -> None:
    # Layer 2 of three texts, at angles to the last layer of 10, 20 and 60 degrees; layer 1 beyond it at
    # 20, 40 and 30: s_2 puts the third text before the second, its fidelity puts it last.
    def at(*degrees: float) -> torch.Tensor:
        angles = torch.tensor(degrees).deg2rad()
        return torch.stack([angles.cos(), angles.sin()], dim=-1)

    layers = torch.stack([at(30, 60, 90), at(10, 20, 60), at(0, 0, 0)], dim=1).requires_grad_()
    signal, fidelity = (torch.tensor(degrees).deg2rad().cos() for degrees in ([20.0, 40, 30], [10.0, 20, 60]))
    correlation = torch.corrcoef(torch.stack([signal, fidelity]))[0, 1]
    value = terms.exit_signal(layers, first_layer=1)
    assert value.item() == pytest.approx(1 - correlation.item(), abs=1e-6)
    value.backward()
    assert layers.grad[:, 0].abs().sum() > 0  # the layer below learns
    assert layers.grad[:, 1:].abs().sum() == 0  # what a text leaves with does not


def test_exit_signal_is_nothing_where_all_texts_are_alike() -> None:
    layers = torch.ones(3, 4, 8).requires_grad_()
    value = terms.exit_signal(layers, first_layer=2)
    assert value.item() == pytest.approx(1)
    value.backward()
    assert layers.grad.isfinite().all()


def test_mix_depths_takes_whole_rows_of_the_layers_asked_for() -> None:
    layers = torch.arange(4.0).view(1, 4, 1).expand(500, 4, 3) + 10 * torch.arange(500.0).view(500, 1, 1)
    mixed = terms.mix_depths(layers, first_layer=2, generator=torch.Generator().manual_seed(0))
    depth = mixed - 10 * torch.arange(500.0).view(500, 1)
    assert (depth == depth[:, :1]).all()
    assert depth.unique().tolist() == [1.0, 2.0, 3.0]


def test_weighted_sum_of_the_paper() -> None:
    torch.manual_seed(0)
    layers, teacher, inner = torch.randn(4, 3, 8), torch.randn(4, 8), torch.randn(4, 6, 8)
    loss, parts = Objective(RECIPES["paper"])(layers, teacher, inner)
    expected = parts["final"] + 0.3 * parts["inter"] + 0.4 * (parts["exit_teacher"] + 0.7 * parts["exit_own"])
    assert loss.item() == pytest.approx((expected + 0.3 * parts["contrast"]).item(), abs=1e-6)


def test_weight_zero_takes_a_term_out() -> None:
    layers, teacher = torch.randn(4, 3, 8), torch.randn(4, 8)
    config = ObjectiveConfig(alpha=0, beta=0, delta=0, relation=0, signal=0)
    assert set(Objective(config)(layers, teacher)[1]) == {"final"}


def test_slope_rises_with_progress() -> None:
    config = ObjectiveConfig(alpha=0, delta=0, own_final=0, slope_start=1, slope=9)
    for progress, slope in ((0.0, 1), (0.5, 5), (1.0, 9)):
        _, parts = Objective(config)(LAYERS, TEACHER, progress=progress)
        expected = (sigmoid(slope * 0.38) + sigmoid(slope * 0.18)) / 2
        assert parts["exit_teacher"].item() == pytest.approx(expected, abs=1e-6)
