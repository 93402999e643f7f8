"""What does not depend on the image is stored, and numbers are written where they are used."""

import pytest
import torch
from support.small_networks import SHAPE, images, targets
from torch import Tensor, nn

from lrq_deploy.graph.capture import capture

pytestmark = pytest.mark.unit

aten = torch.ops.aten


class PowerMean(nn.Module):
    """GeM pooling whose stored exponent is read as a number, as is the scale of its result."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor([3.0]))
        self.register_buffer("scale", torch.tensor(4.0))

    def forward(self, x: Tensor) -> Tensor:
        power = self.power.item()
        rows = x.clamp(min=1e-6).pow(power).mean((2, 3)).pow(1.0 / power)
        return rows * self.scale.item()


def test_numbers_read_from_stored_tensors_are_written_out() -> None:
    network = PowerMean().eval()
    graph = capture(network, SHAPE)
    torch.testing.assert_close(graph(images(3)), network(images(3)))
    assert aten.pow.Tensor_Scalar in targets(graph)
    assert all(str(target).startswith("aten.") for target in targets(graph))
    assert aten.item.default not in targets(graph)
