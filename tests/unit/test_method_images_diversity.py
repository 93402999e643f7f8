"""Diversity loss: zero for varied classes, positive for copies, free of scale."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lrq_deploy.method.images.diversity import diversity_loss, paired_labels

pytestmark = pytest.mark.unit

LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])


def by_class(spread: float, shape: tuple[int, ...] = (3, 8, 8), seed: int = 0) -> Tensor:
    """Two maps of each of four classes, ``spread`` apart in units of the distance of classes."""
    random = torch.Generator().manual_seed(seed)
    centre = torch.randn(4, *shape, generator=random).repeat(2, *[1] * len(shape))
    return centre + spread * torch.randn(8, *shape, generator=random)


@given(half=st.integers(1, 50), classes=st.integers(1, 20), seed=st.integers(0, 1000))
def test_labels_come_in_pairs(half: int, classes: int, seed: int) -> None:
    labels = paired_labels(2 * half, classes, torch.Generator().manual_seed(seed))
    assert labels.shape == (2 * half,)
    assert torch.equal(labels[:half], labels[half:])
    assert 0 <= int(labels.min()) <= int(labels.max()) < classes


def test_copies_of_one_image_per_class_cost_one_per_map() -> None:
    copies = by_class(0.0)
    assert float(diversity_loss([copies], LABELS)) == pytest.approx(1.0)
    assert float(diversity_loss([copies, copies], LABELS)) == pytest.approx(2.0)


def test_varied_images_cost_nothing() -> None:
    # Hardly any centre is left, so that classes do not differ.
    assert float(diversity_loss([by_class(100.0)], LABELS)) == pytest.approx(0.0, abs=0.05)


def test_the_loss_falls_with_the_spread() -> None:
    values = [float(diversity_loss([by_class(s)], LABELS)) for s in (0.0, 0.3, 0.6, 1.0)]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 4


@settings(max_examples=20)
@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-10, 10))
def test_scale_and_shift_of_a_map_do_not_matter(scale: float, shift: float) -> None:
    maps = by_class(0.4).double()
    expected = float(diversity_loss([maps], LABELS))
    assert float(diversity_loss([maps * scale + shift], LABELS)) == pytest.approx(expected)


def test_texture_is_not_diversity() -> None:
    """Checkers of one pixel vanish in the averaged map, blobs stay."""
    flat = by_class(0.0, (1, 8, 8)).repeat_interleave(4, 2).repeat_interleave(4, 3)
    sign = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(16, 16)
    textured = flat.clone()
    textured[4:] += 5 * sign
    assert float(diversity_loss([textured], LABELS)) == pytest.approx(1.0, abs=1e-5)


def test_a_single_class_says_nothing() -> None:
    maps = by_class(0.0).requires_grad_()
    assert float(diversity_loss([maps], torch.zeros(8, dtype=torch.int64)).detach()) == 0.0


def test_the_gradient_moves_copies_apart() -> None:
    maps = by_class(0.01).requires_grad_()
    loss = diversity_loss([maps], LABELS)
    (gradient,) = torch.autograd.grad(loss, maps)
    stepped = (maps - 0.5 * gradient).detach()
    assert float(diversity_loss([stepped], LABELS)) < float(loss.detach())
