"""A batch in pieces has the gradient of the whole one, in every stage and by every switch."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stages import (
    SETTINGS,
    blocks_stage,
    generator_stage,
    images_stage,
    student_stage,
)
from torch import Tensor

from lrq_deploy.method.steps.loop import ResumableStage
from lrq_deploy.method.steps.pieces import MOST_PIECES, Pieces
from lrq_deploy.options import MethodSwitches

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")
# Without values left float at random, which each piece draws anew, and in float32.
SETTLED = replace(SETTINGS, float_share=0.0, reduced_precision=False)
STUDENTS = {
    "decoupled": (MethodSwitches(margin="off"), "multiclass"),
    "plain": (MethodSwitches(margin="off", decoupled=False), "multiclass"),
    "margin": (MethodSwitches(margin="b"), "multiclass"),
    "labels": (MethodSwitches(margin="off", decoupled=False), "multilabel"),
}
STAGES: dict[str, Callable[[], ResumableStage]] = {
    "generator": partial(generator_stage, CPU, SETTLED),
    "images": partial(images_stage, CPU, SETTLED),
    "blocks": partial(blocks_stage, CPU, SETTLED),
    **{f"student {k}": partial(student_stage, CPU, SETTLED, None, *v) for k, v in STUDENTS.items()},
}


def gradients(stage: ResumableStage, pieces: int) -> tuple[list[Tensor], dict[str, float]]:
    """What the first step finds, and its loss terms."""
    stage.pieces.count = pieces
    stage.prepare()
    found: list[Tensor] = []

    def look(optimizer: torch.optim.Optimizer, *arguments: Any) -> None:
        moved = [p for group in optimizer.param_groups for p in group["params"]]
        found.extend(p.grad.clone() for p in moved if p.grad is not None)

    stage.moving().optimizers[0].register_step_pre_hook(look)
    stage.step()
    return found, stage.terms()


@pytest.mark.parametrize("pieces", [2, 8])
@pytest.mark.parametrize("name", STAGES)
def test_a_step_in_pieces_has_the_gradient_of_the_whole_batch(name: str, pieces: int) -> None:
    whole, terms = gradients(STAGES[name](), 1)
    parts, same_terms = gradients(STAGES[name](), pieces)
    assert len(whole) == len(parts) > 0
    largest = max(float(gradient.abs().max()) for gradient in whole)
    for mine, wanted in zip(parts, whole, strict=True):
        # Sums in another order, and a value beside a rounding tie may fall to its other side.
        torch.testing.assert_close(mine, wanted, rtol=2e-4, atol=2e-5 * largest)
    assert same_terms == pytest.approx(terms, rel=1e-3, abs=1e-6)


def coupled(logits: Tensor, moments: Tensor) -> tuple[Tensor, Tensor]:
    """A loss that no sum over images is, and that parameters enter beside the batch."""
    spread = moments.mean(0)
    total = (logits - logits.mean(0)).square().mean() / (1 + spread.square().sum())
    return total + SCALE.square(), spread


SCALE = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)


@settings(max_examples=40)
@given(
    rows=st.sampled_from([2, 4, 6, 12, 16]),
    times=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_a_loss_of_the_whole_batch_is_that_of_its_pieces(rows: int, times: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 4, generator=random, dtype=torch.float64).requires_grad_()
    source = torch.randn(rows, 4, generator=random, dtype=torch.float64).requires_grad_()
    labels = torch.arange(rows)

    def seen(batch: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        logits = (batch @ weight.T).tanh() + numbers[:, None]
        return logits, logits.square().mean(0, keepdim=True)

    def found(pieces: Pieces) -> list[Tensor]:
        for leaf in (weight, source, SCALE):
            leaf.grad = None
        told = pieces.backward((source * 2, labels), seen, coupled)
        return [told.detach(), *(leaf.grad.clone() for leaf in (weight, source, SCALE))]  # type: ignore[union-attr]

    pieces = Pieces(rows)
    whole = found(pieces)
    for _ in range(times):
        pieces.shrink()
    for mine, wanted in zip(found(pieces), whole, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("images", "counts"),
    [(128, [2, 4, 8, 16]), (32, [2, 4, 8, 16]), (24, [2, 4, 8]), (7, [7]), (19, []), (1, [])],
)
def test_pieces_are_even_and_not_too_many(images: int, counts: list[int]) -> None:
    pieces = Pieces(images)
    seen = []
    while pieces.shrink():
        seen.append(pieces.count)
    assert seen == counts
    assert pieces.count == max([1, *counts]) <= MOST_PIECES


def test_a_pass_without_gradients_is_put_together_again() -> None:
    pieces = Pieces(12)
    batch = torch.rand(12, 3)
    pieces.shrink()
    sizes = []

    def network(part: Tensor) -> Tensor:
        sizes.append(len(part))
        return part * 2

    assert torch.equal(pieces.mapped(network, batch), batch * 2)
    assert sizes == [6, 6]


def test_only_pieces_are_a_figure() -> None:
    pieces = Pieces(8)
    assert pieces.figures("student") == {}
    pieces.shrink()
    assert pieces.figures("student") == {"student_pieces": 2.0}
