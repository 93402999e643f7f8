"""Statistics taps: what each BatchNorm sees, what it stored, and the head."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.small_networks import ALL, Residual, graph_of, images, with_statistics
from torch import Tensor, nn

from lrq_deploy.graph.capture import capture
from lrq_deploy.graph.statistics import tap_batch_norms

pytestmark = pytest.mark.unit


def test_taps_are_what_hooks_see() -> None:
    module = with_statistics(Residual())
    seen: list[Tensor] = []
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    handles = [m.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for m in norms]
    x = images(3)
    expected = module(x)
    for handle in handles:
        handle.remove()
    # The second convolution of a block is written before its first in ``forward``'s sum.
    tapped = tap_batch_norms(capture(module, (3, 12, 12)))
    logits, features, taps = tapped.graph(x)
    torch.testing.assert_close(logits, expected)
    assert len(taps) == len(seen) == len(tapped.statistics) == 5
    for tap, value in zip(taps, seen, strict=True):
        torch.testing.assert_close(tap, value)
    stored = {tuple(s.mean.tolist()) for s in tapped.statistics}
    assert stored == {tuple(m.running_mean.tolist()) for m in norms if m.running_mean is not None}
    assert tapped.classifier is not None
    head = module.get_submodule("head")
    assert torch.equal(tapped.classifier.weight, head.weight)  # type: ignore[arg-type]
    torch.testing.assert_close(features @ head.weight.T + head.bias, logits)


@pytest.mark.parametrize("name", ALL)
def test_gradients_reach_the_image(name: str) -> None:
    tapped = tap_batch_norms(graph_of(ALL[name]()))
    x = images(2).requires_grad_()
    _, features, taps = tapped.graph(x)
    assert features.shape == (2, tapped.classifier.weight.shape[1])  # type: ignore[union-attr]
    (grad,) = torch.autograd.grad(taps[-1].square().mean(), x)
    assert float(grad.abs().sum()) > 0


def test_a_network_that_ends_in_a_convolution_has_no_classifier() -> None:
    class Convolutional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3)
            self.norm = nn.BatchNorm2d(4)
            self.head = nn.Conv2d(4, 5, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.head(self.norm(self.stem(x)).mean((2, 3), True)).flatten(1)
            return result

    tapped = tap_batch_norms(graph_of(Convolutional()))
    assert tapped.classifier is None
    assert tapped.graph(images(2))[1] is None


def test_the_argument_is_unchanged_and_a_network_may_have_no_norm() -> None:
    graph = graph_of(Residual())
    tap_batch_norms(graph)
    assert graph(images(2)).shape == (2, 5)

    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))

    tapped = tap_batch_norms(graph_of(Plain()))
    assert tapped.statistics == ()
    assert tapped.graph(images(2))[2] == []


class Ended(nn.Module):
    """A linear layer of 6 outputs and a movement of them."""

    def __init__(self, ending: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 6)
        self.ending = ending

    def forward(self, x: Tensor) -> Tensor:
        return self.ending(self.head(self.norm(x).mean((2, 3))))


@pytest.mark.parametrize(
    ("ending", "in_place"),
    [
        (lambda y: y, True),
        (lambda y: y.view(-1, 2, 3).flatten(1), True),
        (lambda y: y[:, :, None, None].squeeze(3).squeeze(2), True),
        (lambda y: y[:, 1:], False),
        (lambda y: y.view(-1, 3, 2).amax(2), False),
        (lambda y: y.view(-1, 3, 2).transpose(1, 2).flatten(1), False),
        (lambda y: F.pad(y, (0, 1)), False),
        (lambda y: y.flip(1), False),
    ],
)
def test_rows_of_the_head_are_classes_only_where_its_outputs_are_the_logits(
    ending: Callable[[Tensor], Tensor], in_place: bool
) -> None:
    tapped = tap_batch_norms(graph_of(Ended(ending)))
    assert (tapped.classifier is not None) == in_place
    logits, features, _ = tapped.graph(images(2))
    if tapped.classifier is not None and tapped.classifier.bias is not None:
        given = features @ tapped.classifier.weight.T + tapped.classifier.bias
        torch.testing.assert_close(given, logits)
