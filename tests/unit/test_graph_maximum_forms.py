"""Adaptive maximum poolings become poolings that every runtime knows."""

import pytest
import torch
import torch.nn.functional as F
from support.small_networks import images, targets
from torch import Tensor, nn

from lrq_deploy.graph.capture import capture
from lrq_deploy.graph.operators import all_known

pytestmark = pytest.mark.unit

aten = torch.ops.aten
SHAPE = (3, 16, 13)


class Pooled(nn.Module):
    def __init__(self, sides: tuple[int, int]) -> None:
        super().__init__()
        self.sides = sides

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_max_pool2d(x, self.sides).flatten(1)


@pytest.mark.parametrize("sides", [(3, 2), (5, 13), (1, 5), (7, 20), (16, 6), (20, 30), (3, 1)])
def test_sides_that_do_not_divide(sides: tuple[int, int]) -> None:
    graph = capture(Pooled(sides), SHAPE)
    assert torch.equal(graph(images(3, SHAPE)), Pooled(sides)(images(3, SHAPE)))
    assert aten.adaptive_max_pool2d.default not in targets(graph)
    assert all_known(graph.graph)


def test_windows_of_one_size_need_no_selection() -> None:
    assert aten.index_select.default not in targets(capture(Pooled((3, 6)), SHAPE))


@pytest.mark.parametrize("sides", [(4, 13), (1, 1)])
def test_sides_that_divide_stay(sides: tuple[int, int]) -> None:
    assert aten.adaptive_max_pool2d.default in targets(capture(Pooled(sides), SHAPE))
