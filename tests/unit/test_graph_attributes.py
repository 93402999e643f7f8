"""Names that the student needs are free, whatever the network calls its parts."""

import pytest
import torch
from support.small_networks import SHAPE, calibrated, conv_bn, graph_of, images
from torch import Tensor, nn

from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.export.parity.simulation import exact_logits
from lrq_deploy.export.runtime.session import open_session
from lrq_deploy.graph.attributes import take_name, tensor_of
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.freeze import frozen_model
from lrq_deploy.student.layers import set_enabled
from lrq_deploy.teacher import Preprocessing, Teacher

pytestmark = pytest.mark.unit


class Named(nn.Module):
    """Parts that are called like those of a student and of an exported graph."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv_bn(3, 4), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.stored = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
        self.quantizers = nn.Parameter(torch.rand(1, 4))
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.stored(self.layers(x).relu()) + self.quantizers)
        return result


def test_a_network_may_call_its_parts_as_a_student_does() -> None:
    network, scheme = Named(), Scheme(4, 4, 8)
    graph = graph_of(network)
    student = calibrated(network, scheme)
    model = frozen_model(
        student, scheme, Teacher(graph, SHAPE, 5, Preprocessing((0.0,) * 3, (1.0,) * 3), "n", "")
    )
    wanted = ["layers.layers_0_0", "layers.layers_2", "layers.stored_2", "layers.head"]
    assert list(model.layers()) == wanted
    x = images(3)
    session = open_session(to_onnx(model).SerializeToString())
    torch.testing.assert_close(session.logits(x), exact_logits(model, x), rtol=1e-4, atol=1e-4)
    set_enabled(student, False)
    torch.testing.assert_close(student(x), graph(x), rtol=1e-4, atol=1e-4)


def test_what_moves_keeps_its_values() -> None:
    graph = graph_of(Named())
    x = images(3)
    before = graph(x)
    for name in ("layers", "layers_", "quantizers"):
        take_name(graph, name, nn.ModuleDict())
    graph.recompile()
    taken = [graph.get_submodule(name) for name in ("layers", "quantizers")]
    assert not any(list(module.children()) for module in taken)
    moved = next(n for n in graph.graph.nodes if str(n.target).startswith("quantizers_"))
    assert tensor_of(graph, moved).shape == (1, 4)
    torch.testing.assert_close(graph(x), before)
