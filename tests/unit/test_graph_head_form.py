"""A convolution over one place that ends a network is a linear layer, and no other is."""

from typing import Any

import pytest
import torch
from support.small_networks import SHAPE, calibrated, graph_of, images, targets
from torch import Tensor, nn

from lrq_deploy.graph.operators import is_call
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.head_input import head_layer

pytestmark = pytest.mark.unit

aten = torch.ops.aten


class Ending(nn.Module):
    """A convolution of ``kernel`` behind maps of ``side``, then whatever makes rows of it."""

    def __init__(self, end: nn.Module, side: int = 1, **options: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.pool = nn.AdaptiveAvgPool2d(side)
        given: dict[str, Any] = {"kernel_size": side, **options}
        self.fc = nn.Conv2d(8, 4, **given)
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.end(self.fc(self.pool(torch.relu(self.norm(self.conv(x))))))
        return result


class View(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(-1, 4)


class Squeeze(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze(-1).squeeze(-1)


ROWS = [
    nn.Flatten(),
    View(),
    Squeeze(),
    nn.Sequential(nn.Flatten(), nn.Softmax(1)),
    nn.Sequential(nn.Softmax(1), nn.Flatten()),
    nn.Sequential(nn.Softmax(1), Squeeze()),
]


@pytest.mark.parametrize("end", ROWS)
@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_it_becomes_a_linear_layer(end: nn.Module, side: int, bias: bool) -> None:
    network = Ending(end, side, bias=bias).eval()
    graph = graph_of(network)
    head: Any = graph.graph.output_node().args[0]
    assert is_call(head, {aten.linear.default})
    assert targets(graph).count(aten.conv2d.default) == 1
    assert "fc.weight" not in dict(graph.named_parameters())
    logits = nn.Sequential(network.conv, network.norm, nn.ReLU(), network.pool, network.fc)
    torch.testing.assert_close(graph(images()), logits(images()).flatten(1))


@pytest.mark.parametrize(
    ("side", "options"),
    [
        (1, {"groups": 4}),
        (2, {"kernel_size": 1, "stride": 2}),
        (1, {"kernel_size": 3, "padding": 1}),
    ],
)
def test_others_stay(side: int, options: dict[str, int]) -> None:
    graph = graph_of(Ending(nn.Flatten(), side, **options).eval())
    assert targets(graph).count(aten.conv2d.default) == 2


def test_the_student_knows_its_head_by_the_name_of_the_network() -> None:
    student = calibrated(Ending(nn.Flatten()).eval(), Scheme(4, 4, 8), SHAPE)
    assert head_layer(student) is student.get_submodule("layers.fc")
