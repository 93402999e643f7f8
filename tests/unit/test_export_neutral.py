"""The exported graph states what the network computes, whatever its tensors are called."""

import pytest
import torch
from support.small_networks import SHAPE, graph_of, images
from torch import Tensor, nn

from lrq_deploy.export.neutral import float_graph
from lrq_deploy.export.onnx_graph import float_onnx
from lrq_deploy.export.runtime.session import open_session

pytestmark = pytest.mark.unit


class Named(nn.Module):
    """Stored tensors that are called like the operators that read them."""

    cat: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("cat", torch.randn(1, 12, 12))
        self.mean = nn.Parameter(torch.randn(1, 5))
        self.stored = nn.Conv2d(6, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([x, -x], 1) + self.cat
        result: Tensor = self.stored(both).mean((2, 3)) - self.mean
        return result


def test_names_of_tensors_and_operators_may_be_the_same() -> None:
    network = Named().eval()
    graph = graph_of(network)
    before = list(graph.state_dict())
    shapes = {
        node.op_type: [str(value.shape) for value in node.outputs]
        for node in float_graph(graph, SHAPE).graph
    }
    assert shapes["Concat"] == shapes["Add"] == ["[batch,6,12,12]"]
    assert shapes["Sub"] == ["[batch,5]"]
    assert list(graph.state_dict()) == before
    session = open_session(float_onnx(graph, SHAPE).SerializeToString())
    for count in (1, 3):
        batch = images(count)
        torch.testing.assert_close(session.logits(batch), network(batch), rtol=1e-4, atol=1e-5)
