"""Angular margins against a direct computation of angles."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lrq_deploy.graph.statistics import Classifier
from lrq_deploy.method.images.margin import add_margin, angle_penalty, class_angles

pytestmark = pytest.mark.unit


def sample(
    seed: int, count: int = 6, size: int = 7, classes: int = 4
) -> tuple[Tensor, Tensor, Classifier]:
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(count, size, generator=random)
    labels = torch.randint(classes, (count,), generator=random)
    weight = torch.randn(classes, size, generator=random)
    return features, labels, Classifier(weight, torch.randn(classes, generator=random))


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), margin=st.floats(0.0, 1.2))
def test_the_target_logit_carries_the_larger_angle(seed: int, margin: float) -> None:
    features, labels, classifier = sample(seed)
    logits = F.linear(features, classifier.weight, classifier.bias)
    moved = add_margin(logits, features, labels, classifier, margin)
    for row, label in enumerate(labels.tolist()):
        centre = classifier.weight[label]
        length = float(features[row].norm() * centre.norm())
        angle = math.acos(float(features[row] @ centre) / length)
        cosine = math.cos(angle + margin)
        if angle + margin > math.pi:
            cosine = math.cos(angle) - margin * math.sin(margin)
        assert classifier.bias is not None
        expected = length * cosine + float(classifier.bias[label])
        assert float(moved[row, label]) == pytest.approx(expected, abs=2e-3)
        others = torch.arange(4) != label
        assert torch.equal(moved[row, others], logits[row, others])
        assert float(moved[row, label]) <= float(logits[row, label]) + 1e-5


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), margin=st.floats(0.1, 2.0))
def test_angles_and_their_penalty(seed: int, margin: float) -> None:
    features, labels, classifier = sample(seed)
    cosine = F.cosine_similarity(features.double(), classifier.weight[labels].double())
    angles = torch.acos(cosine)
    torch.testing.assert_close(
        class_angles(features, labels, classifier).double(), angles, atol=1e-4, rtol=1e-4
    )
    penalty = angle_penalty(features, labels, classifier, margin)
    assert float(penalty) == pytest.approx(float((margin - angles).clamp_min(0).mean()), abs=1e-4)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_no_nan_where_features_lie_on_their_centre(sign: float) -> None:
    weight = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    classifier = Classifier(weight, None)
    labels = torch.tensor([0])
    losses: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda f: add_margin(f @ weight.T, f, labels, classifier, 0.5).sum(),
        lambda f: angle_penalty(f, labels, classifier, 0.5),
    )
    for loss in losses:
        features = (sign * weight[:1]).clone().requires_grad_()
        value = loss(features)
        value.backward()
        assert bool(value.isfinite())
        assert features.grad is not None
        assert bool(features.grad.isfinite().all())
