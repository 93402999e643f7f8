"""Movements that are selections of positions compile with TensorRT for RTX."""

import pytest
import torch
import torch.nn.functional as F
from support.small_networks import CENTRED, SHAPE, calibrated
from torch import Tensor, nn

from lrq_deploy.export.engine.build import build_engine
from lrq_deploy.export.engine.log import audit_engine
from lrq_deploy.export.engine.options import EngineOptions
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.freeze import freeze
from lrq_deploy.student.frozen import QuantizedModel

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
pytestmark = pytest.mark.integration

SCHEME = Scheme(8, 8)


class Resizing(nn.Module):
    """A nearest resize to sides that are no multiples, between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(torch.relu(self.stem(x)), size=(20, 7))
        result: Tensor = self.head(torch.relu(self.body(x)).mean((2, 3)))
        return result


def test_a_nearest_resize_by_positions_compiles_in_int8() -> None:
    graph, table = freeze(calibrated(Resizing(), SCHEME))
    model = QuantizedModel(graph, table, SCHEME, SHAPE, 5, CENTRED, "resizing", "")
    proto = to_onnx(model, "tensorrt")
    assert [node.op_type for node in proto.graph.node].count("Gather") == 2
    options = EngineOptions("tensorrt-rtx", sms=(86,))
    built = build_engine(trt, proto.SerializeToString(), SHAPE, options)
    coverage = audit_engine(model, built.log)
    assert coverage is not None
    assert coverage.fallbacks == ()
