"""Layers that read a narrow copy of the residual stream: one arithmetic in every runtime."""

from pathlib import Path

import onnx
import pytest
import torch
from support.small_networks import ALL, graph_of

from lrq_deploy.calibration.observe import calibrate
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.export.parity.simulation import exact_logits
from lrq_deploy.export.runtime.session import open_session
from lrq_deploy.graph.fold_batch_norm import fold_batch_norm
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.freeze import freeze
from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.student.placement import place_quantizers
from lrq_deploy.target import PORTABLE
from lrq_deploy.teacher import Preprocessing

pytestmark = pytest.mark.integration

SCHEME = Scheme(4, 4, 8)
CENTRED = Preprocessing((0.5,) * 3, (0.25,) * 3)


@pytest.fixture(scope="module")
def model() -> QuantizedModel:
    student = place_quantizers(
        fold_batch_norm(graph_of(ALL["residual"]())), SCHEME, PORTABLE, CENTRED
    )
    torch.manual_seed(0)
    calibrate(student, torch.randn(32, *shape(student)), True, 0)
    graph, table = freeze(student)
    return QuantizedModel(graph, table, SCHEME, shape(student), 5, CENTRED, "residual", "")


def shape(student: torch.fx.GraphModule) -> tuple[int, int, int]:
    value = next(n for n in student.graph.nodes if n.op == "placeholder").meta["val"]
    channels, height, width = value.shape[1:]
    return int(channels), int(height), int(width)


def test_runtimes_agree_and_requantize_by_a_sum(model: QuantizedModel, tmp_path: Path) -> None:
    images = torch.randn(24, *model.input_shape)
    expected = exact_logits(model, images)
    data = to_onnx(model, "onnxruntime").SerializeToString()
    fused = open_session(data, optimized=tmp_path / "fused.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node]
    narrow = sum(name.endswith("_narrow") for name in model.quantizers())
    sums = sum(node.target is torch.ops.aten.add.Tensor for node in model.graph.graph.nodes)
    assert narrow > 0
    assert kinds.count("QLinearAdd") == narrow + sums
    assert "DequantizeLinear" not in kinds
    for runtime in (
        fused,
        open_session(data, level="off"),
        open_session(to_onnx(model, "tensorrt").SerializeToString(), level="off"),
    ):
        torch.testing.assert_close(runtime.logits(images), expected, rtol=0, atol=1e-5)
