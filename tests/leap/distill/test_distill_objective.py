"""Each term of the objective against numbers worked out by hand."""

import math

import pytest
import torch

from leap.distill import objective as terms
from leap.distill.objective import Objective, ObjectiveConfig, States, Targets
from leap.distill.recipes import RECIPES

# One text, two exits: cosines to the teacher 0.6 and 0.8, and 0.96 between the two.
EXITS = torch.tensor([[[0.6, 0.8], [0.8, 0.6]]])
TEACHER = torch.tensor([[1.0, 0.0]])
PAPER, LEAP = RECIPES["paper"].objective, RECIPES["leap"].objective


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def states(texts: int = 4, every: int = 1, early: int = 3) -> States:
    """Random ones of 3 layers and 3 exits, width 8, 5 tokens, gradients on."""
    torch.manual_seed(0)
    rows = slice(None, None, every)
    deep = len(range(texts)[rows])
    mask = torch.ones(texts, 5, dtype=torch.bool)
    mask[-1, 3:] = False
    return States(
        layers=torch.randn(deep, 3, 8, requires_grad=True),
        tokens=torch.randn(deep, 5, 8, requires_grad=True),
        rows=rows,
        exits=torch.randn(texts, 3, 8, requires_grad=True),
        early=early,
        signals=torch.rand(texts, 3, requires_grad=True),
        exit_tokens=[torch.randn(texts, 5, 8, requires_grad=True) for _ in range(3)],
        mask=mask,
    )


def targets(texts: int = 4) -> Targets:
    torch.manual_seed(1)
    return Targets(torch.randn(texts, 6, 8), torch.randn(texts, 5, 8))


def test_final_alignment() -> None:
    assert terms.final_alignment(EXITS[:, -1], 5 * TEACHER).item() == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("students", "teachers", "expected"),
    [(6, 6, [1, 2, 3, 4, 5, 6]), (3, 6, [2, 4, 6]), (12, 24, list(range(2, 25, 2))), (4, 6, [2, 3, 5, 6])],
)
def test_layer_map(students: int, teachers: int, expected: list[int]) -> None:
    assert terms.layer_map(students, teachers) == expected


def test_inner_alignment_leaves_the_last_layer_to_the_final_term() -> None:
    inner = torch.tensor([[[0.0, 1.0], [-1.0, 0.0]]])  # cos with layer 1: 0.8; layer 2 would give -0.8
    assert terms.inner_alignment(EXITS, inner).item() == pytest.approx(0.2)


def test_exit_alignment_is_the_papers_sigmoid_or_the_cosine() -> None:
    expected = (sigmoid(10 * (0.98 - 0.6)) + sigmoid(10 * (0.98 - 0.8))) / 2
    assert terms.exit_alignment(EXITS, TEACHER, PAPER).item() == pytest.approx(expected, abs=1e-6)
    steep = ObjectiveConfig(tau=0.9, slope=3)
    expected = (sigmoid(3 * 0.3) + sigmoid(3 * 0.1)) / 2
    assert terms.exit_alignment(EXITS, TEACHER, steep).item() == pytest.approx(expected, abs=1e-6)
    assert terms.exit_alignment(EXITS, 7 * TEACHER, LEAP).item() == pytest.approx(0.3, abs=1e-6)


def test_token_alignment_is_a_mean_over_unmasked_tokens() -> None:
    # Two texts of 2 and 1 tokens, at cosines 0.6, 0 and 1 to the teacher's; the padding is far off.
    tokens = torch.tensor([[[0.6, 0.8], [0.0, 2.0]], [[3.0, 0.0], [-1.0, 0.0]]])
    mask = torch.tensor([[True, True], [True, False]])
    teacher = torch.tensor([1.0, 0.0]).expand(2, 2, 2)
    assert terms.token_alignment(tokens, teacher, mask).item() == pytest.approx((0.4 + 1 + 0) / 3, abs=1e-6)


def test_exit_signal_asks_for_one_less_the_root_of_the_error() -> None:
    # Errors 0.4 and 0.2, so s should be 1 - sqrt(0.4) = 0.3675 and 1 - sqrt(0.2) = 0.5528.
    exits = EXITS.clone().requires_grad_()
    wanted = torch.tensor([[1 - math.sqrt(0.4), 1 - math.sqrt(0.2)]])
    assert terms.exit_signal(wanted, exits, TEACHER).item() == pytest.approx(0, abs=1e-12)
    signals = (wanted + torch.tensor([[0.02, -0.25]])).requires_grad_()
    # Smooth L1 with beta 0.05: a square over 2 beta below it, and beyond it the distance less beta / 2.
    expected = (0.02**2 / 0.1 + (0.25 - 0.025)) / 2
    value = terms.exit_signal(signals, exits, TEACHER)
    assert value.item() == pytest.approx(expected, abs=1e-6)
    value.backward()
    assert signals.grad.abs().min() > 0
    assert exits.grad is None  # no embedding learns to be easy to predict


def test_exit_signal_of_a_perfect_exit_has_a_gradient() -> None:
    exits = TEACHER.unsqueeze(1) * 1.0000001  # cos may come out above 1
    signals = torch.tensor([[0.9]], requires_grad=True)
    value = terms.exit_signal(signals, exits, TEACHER)
    value.backward()
    assert value.item() == pytest.approx(0.1 - 0.025, abs=1e-3)
    assert signals.grad.isfinite().all()


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


def test_weighted_sum_of_the_paper() -> None:
    student, teacher = states(early=2), targets()  # without a landing layer the last exit is full depth
    loss, parts = Objective(PAPER)(student, teacher)
    expected = parts["final"] + 0.3 * parts["inter"] + 0.4 * (parts["exit_teacher"] + 0.7 * parts["exit_own"])
    assert loss.item() == pytest.approx((expected + 0.3 * parts["contrast"]).item(), abs=1e-6)
    own = terms.exit_alignment(student.exits[:, :2], student.layers[:, -1], PAPER)
    assert parts["exit_own"].item() == pytest.approx(own.item(), abs=1e-6)
    teachers = terms.exit_alignment(student.exits, teacher.final, PAPER)
    assert parts["exit_teacher"].item() == pytest.approx(teachers.item(), abs=1e-6)


def test_weighted_sum_of_leap() -> None:
    loss, parts = Objective(LEAP)(states(), targets())
    expected = LEAP.final * parts["final"] + LEAP.beta * parts["exit_teacher"] + LEAP.signal * parts["signal"]
    expected += LEAP.token_final * parts["token_final"] + LEAP.token_exit * parts["token_exit"]
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert set(parts) == {"final", "exit_teacher", "token_final", "token_exit", "signal"}


def test_own_final_gives_full_depth_no_gradient() -> None:
    student = states()
    config = ObjectiveConfig(final=0, alpha=0, delta=0, beta=1)
    Objective(config)(student, targets())[0].backward()
    assert student.exits.grad.abs().sum() > 0
    assert student.layers.grad is None or student.layers.grad.abs().sum() == 0


def test_terms_at_full_depth_look_at_the_texts_that_run_it() -> None:
    student, teacher = states(texts=5, every=2), targets(5)
    _, parts = Objective(LEAP)(student, teacher)
    final = terms.final_alignment(student.layers[:, -1], teacher.final[[0, 2, 4]])
    tokens = terms.token_alignment(student.tokens, teacher.tokens[[0, 2, 4]], student.mask[[0, 2, 4]])
    assert parts["final"].item() == pytest.approx(final.item(), abs=1e-6)
    assert parts["token_final"].item() == pytest.approx(tokens.item(), abs=1e-6)


def test_weight_zero_takes_a_term_out() -> None:
    config = ObjectiveConfig(alpha=0, beta=0, delta=0)
    assert set(Objective(config)(states(), targets())[1]) == {"final"}
