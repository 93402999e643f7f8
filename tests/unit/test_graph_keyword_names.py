"""Names that Python reserves, which the code of a graph cannot hold."""

import pytest
import torch
from support.small_networks import SHAPE, images
from torch import Tensor, nn

from lrq_deploy.graph.capture import capture

pytestmark = pytest.mark.unit


class Reserved(nn.Module):
    """Stored under keywords at the top and below it, beside the name that one would become."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.ModuleDict({"in": nn.Conv2d(3, 4, 3), "class": nn.Linear(4, 5)})
        self.parts["in_"] = nn.BatchNorm2d(4)
        self.register_parameter("lambda", nn.Parameter(torch.full((5,), 2.0)))
        self.register_parameter("lambda_", nn.Parameter(torch.full((5,), 3.0)))

    def forward(self, x: Tensor) -> Tensor:
        rows = self.parts["in_"](self.parts["in"](x)).mean((2, 3))
        logits: Tensor = self.parts["class"](rows) * getattr(self, "lambda") + self.lambda_
        return logits


@pytest.mark.parametrize("archive", [False, True], ids=["network", "archive"])
def test_parts_may_be_called_by_keywords(archive: bool) -> None:
    network = Reserved().eval()
    program = torch.export.export(network, (images(2),)) if archive else network
    graph = capture(program, SHAPE)
    torch.testing.assert_close(graph(images(3)), network(images(3)))
    assert {"parts.class_.weight", "parts.in__.weight", "lambda__"} <= set(graph.state_dict())
