"""Distillation: the published identity, two classes, extreme logits."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lrq_deploy.method.fitting.distillation import (
    decoupled_distillation,
    label_distillation,
    plain_distillation,
)

pytestmark = pytest.mark.unit


def logits(seed: int, classes: int, spread: float = 3.0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    shape = (5, classes)
    return (
        torch.randn(shape, generator=random, dtype=torch.float64) * spread,
        torch.randn(shape, generator=random, dtype=torch.float64) * spread,
    )


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), classes=st.integers(3, 20), temperature=st.floats(0.5, 8.0))
def test_plain_is_target_term_plus_weighted_other_term(
    seed: int, classes: int, temperature: float
) -> None:
    student, teacher = logits(seed, classes)
    for row in range(len(student)):
        s, t = student[row : row + 1], teacher[row : row + 1]
        target = float(decoupled_distillation(s, t, temperature, 0.0))
        other = float(decoupled_distillation(s, t, temperature, 1.0)) - target
        share = float(F.softmax(t / temperature, 1).max())
        whole = float(plain_distillation(s, t, temperature))
        assert whole == pytest.approx(target + (1 - share) * other, rel=1e-8, abs=1e-10)


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), temperature=st.floats(0.5, 8.0))
def test_plain_is_the_divergence_of_softened_answers(seed: int, temperature: float) -> None:
    student, teacher = logits(seed, 6)
    p, q = F.softmax(teacher / temperature, 1), F.softmax(student / temperature, 1)
    expected = temperature**2 * (p * (p.log() - q.log())).sum(1).mean()
    torch.testing.assert_close(plain_distillation(student, teacher, temperature), expected)


def test_two_classes_fall_back_to_plain() -> None:
    student, teacher = logits(0, 2)
    torch.testing.assert_close(
        decoupled_distillation(student, teacher, 4.0, 8.0),
        plain_distillation(student, teacher, 4.0),
    )


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("classes", [2, 3, 1000])
def test_extreme_logits_give_finite_losses_and_gradients(size: float, classes: int) -> None:
    student, teacher = (x.float() * size for x in logits(1, classes))
    student.requires_grad_()
    loss = decoupled_distillation(student, teacher, 1.0, 8.0)
    loss.backward()
    assert bool(loss.isfinite())
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())


def test_the_teacher_itself_has_no_loss() -> None:
    _, teacher = logits(2, 10)
    assert float(decoupled_distillation(teacher, teacher, 4.0, 8.0)) == pytest.approx(0, abs=1e-9)


def test_label_distillation_is_the_divergence_of_every_joint_outcome() -> None:
    student, teacher = (
        torch.tensor([[0.3, -1.0], [2.0, 0.1]]),
        torch.tensor([[1.0, -0.5], [0.0, 4.0]]),
    )
    temperature = 2.0
    s, t = (student / temperature).sigmoid(), (teacher / temperature).sigmoid()
    total = torch.zeros(())
    for outcome in itertools.product((0.0, 1.0), repeat=2):
        yes = torch.tensor(outcome)
        p, q = ((yes * x + (1 - yes) * (1 - x)).prod(1) for x in (t, s))
        total = total + (p * (p / q).log()).sum()
    found = label_distillation(student, teacher, temperature)
    torch.testing.assert_close(found, temperature**2 * total / 2)
    assert label_distillation(teacher, teacher, temperature) == 0.0
