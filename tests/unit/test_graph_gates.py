"""Gates written by hand: one operator each, with the widths of the built-in ones."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.small_networks import SHAPE, Mobile, graph_of, images, placed, quantizers, targets
from torch import Tensor, fx, nn

from lrq_deploy.graph.capture import capture
from lrq_deploy.scheme import Scheme

pytestmark = pytest.mark.unit

aten = torch.ops.aten

Formula = Callable[[Tensor], Tensor]

HARD_SIGMOIDS: dict[str, Formula] = {
    "relu6": lambda x: F.relu6(x + 3.0) / 6.0,
    "in place": lambda x: x.clone().add_(3.0).clamp_(0.0, 6.0).div_(6.0),
    "module": lambda x: nn.ReLU6()(3 + x) / 6,
    "hardtanh": lambda x: F.hardtanh(x + 3, 0.0, 6.0) * (1 / 6),
    "clamp": lambda x: torch.clamp(x + 3, min=0, max=6) * 0.1666667,
    "clip": lambda x: torch.clip(x + 3, 0, 6) / 6,
    "shifted by a half": lambda x: torch.clamp(x / 6 + 0.5, 0, 1),
}
OTHERS: dict[str, Formula] = {
    "another shift": lambda x: F.relu6(x + 2) / 6,
    "another clip": lambda x: F.hardtanh(x + 3, 0.0, 5.0) / 6,
    "another factor": lambda x: F.relu6(x + 3) / 5,
    "no shift": lambda x: F.relu6(x) / 6,
    "scaled shift": lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
}
PRODUCTS: dict[str, tuple[Formula, object]] = {
    "gate first": (lambda x: F.relu6(x + 3) / 6 * x, aten.hardswish.default),
    "gate last": (lambda x: x * (F.relu6(x + 3) / 6), aten.hardswish.default),
    "division last": (lambda x: x * F.relu6(x + 3) / 6, aten.hardswish.default),
    "built-in gate": (lambda x: x * F.hardsigmoid(x), aten.hardswish.default),
    "sigmoid": (lambda x: torch.sigmoid(x) * x, aten.silu.default),
}


class Applied(nn.Module):
    """A function of the image, then the mean of each channel."""

    def __init__(self, formula: Formula) -> None:
        super().__init__()
        self.formula = formula

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(x).mean((2, 3))


def functions(formula: Formula) -> list[object]:
    """What the graph calls before the mean; it computes what the formula does."""
    graph = capture(Applied(formula), SHAPE)
    x = images() * 6
    torch.testing.assert_close(graph(x), formula(x.clone()).mean((2, 3)), rtol=1e-5, atol=1e-6)
    *called, mean = targets(graph)
    assert mean is aten.mean.dim
    return called


@pytest.mark.parametrize("name", HARD_SIGMOIDS)
def test_a_hard_sigmoid_is_recognised(name: str) -> None:
    assert functions(HARD_SIGMOIDS[name]) == [aten.hardsigmoid.default]


@pytest.mark.parametrize("name", OTHERS)
def test_what_only_looks_like_one_stays(name: str) -> None:
    assert aten.hardsigmoid.default not in functions(OTHERS[name])


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_with_its_own_gate_is_one_operator(name: str) -> None:
    formula, target = PRODUCTS[name]
    assert functions(formula) == [target]


def test_a_product_with_the_gate_of_another_tensor_stays_a_product() -> None:
    def formula(x: Tensor) -> Tensor:
        return x * F.relu6(x.mean((2, 3), keepdim=True) + 3) / 6

    assert functions(formula) == [aten.mean.dim, aten.hardsigmoid.default, aten.mul.Tensor]


def widths(student: fx.GraphModule) -> list[tuple[int, bool]]:
    return [(q.bits, q.signed) for q in quantizers(student).values()]


class HandWritten(Mobile):
    """``Mobile`` as older code writes it."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x * F.relu6(x + 3) / 6
        y = F.relu6(self.depthwise(x))
        gate = self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True))))
        x = x + self.project(y * (F.relu6(gate + 3) / 6))
        x = self.expand(x)
        x = x * (F.relu6(x + 3) / 6)
        result: Tensor = self.head(x.mean((2, 3)))
        return result


@pytest.mark.parametrize("residual_bits", [None, 6])
def test_hand_written_gates_are_placed_like_built_in_ones(residual_bits: int | None) -> None:
    scheme = Scheme(3, 3, 3, residual_bits=residual_bits)
    by_hand, built_in = (placed(network(), scheme) for network in (HandWritten, Mobile))
    widths = [
        [(q.bits, q.signed) for q in quantizers(student).values()]
        for student in (by_hand, built_in)
    ]
    assert widths[0] == widths[1]
    calls = [targets(graph_of(network())) for network in (HandWritten, Mobile)]
    for target in (aten.hardswish.default, aten.hardsigmoid.default, aten.mul.Tensor):
        assert calls[0].count(target) == calls[1].count(target)
