"""The rehearsal refuses what would fail at the end of a run, and says where it stands."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from support.small_networks import (
    CENTRED,
    SHAPE,
    Dense,
    Mobile,
    Residual,
    Shuffle,
    Upsampling,
    calibrated,
)
from torch import Tensor, fx, nn

from lrq_deploy.calibration.stand_in import stand_in_model
from lrq_deploy.errors import ExportError
from lrq_deploy.export.missing_form import describe_failure
from lrq_deploy.export.neutral import neutral_graph
from lrq_deploy.export.operator_check import check_operators
from lrq_deploy.export.rehearsal import rehearse
from lrq_deploy.export.runtime.session import Session, open_session
from lrq_deploy.export.targets import targets
from lrq_deploy.graph.capture import capture
from lrq_deploy.graph.fold_batch_norm import fold_batch_norm
from lrq_deploy.graph.operators import all_known
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.student.placement import place_quantizers
from lrq_deploy.target import PORTABLE
from lrq_deploy.teacher import Teacher

pytestmark = pytest.mark.unit

SCHEME = Scheme(4, 4, 8)
BOTH = tuple(targets().get(name) for name in targets().names())


class Ending(nn.Module):
    """A convolution and whatever ``end`` does to its result."""

    def __init__(self, end: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        if self.end == "median":
            x = x - x.median(3, keepdim=True).values
        if self.end == "atanh":
            x = torch.atanh(x.double() / 99).float()
        result: Tensor = self.head(x.mean((2, 3)))
        return result


def captured(network: nn.Module) -> fx.GraphModule:
    torch.manual_seed(0)
    return capture(network.eval(), SHAPE)


def stand_in(network: nn.Module, scheme: Scheme = SCHEME) -> QuantizedModel:
    graph = captured(network)
    student = place_quantizers(fold_batch_norm(graph), scheme, PORTABLE, CENTRED)
    teacher = Teacher(graph, SHAPE, 5, CENTRED, "net", "")
    return stand_in_model(student, scheme, teacher)


@pytest.mark.parametrize("scheme", [SCHEME, Scheme(8, 8, 8), Scheme(4, 4, 8, int4_linear=True)])
def test_a_network_that_can_be_written_passes(scheme: Scheme) -> None:
    rehearse(stand_in(Residual(), scheme), BOTH)


class Clamped(nn.Module):
    """A clamp between two convolutions."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 5)
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.stem(x).clamp(self.low, self.high))
        result: Tensor = self.head(x.mean((2, 3)))
        return result


@pytest.mark.parametrize("limits", [(0, 6.0), (-1, 2.5), (-1.0, 1)])
def test_a_clamp_with_limits_of_two_types_passes(limits: tuple[float, float]) -> None:
    rehearse(stand_in(Clamped(*limits)), BOTH)


class Resized(nn.Module):
    """A resize between two convolutions."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 5)
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.interpolate(self.stem(x), **self.options))
        result: Tensor = self.head(x.mean((2, 3)))
        return result


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_an_operator_that_onnx_computes_otherwise_is_named_with_its_line(mode: str) -> None:
    with pytest.raises(ExportError, match="must compute what torch does") as caught:
        rehearse(stand_in(Resized(scale_factor=0.75, mode=mode, antialias=True)), BOTH)
    assert f"behind aten._upsample_{mode}2d_aa.vec at {__file__}:" in caught.value.received
    assert "give it a size" in caught.value.remedy


@pytest.mark.parametrize(
    "options",
    [
        {"scale_factor": 0.5, "mode": "bilinear", "antialias": True},
        {"size": (7, 8), "mode": "bicubic", "antialias": True},
        {"scale_factor": 1.7, "mode": "bilinear"},
    ],
)
def test_a_resize_that_onnx_computes_alike_passes(options: dict[str, Any]) -> None:
    rehearse(stand_in(Resized(**options)), BOTH)


@pytest.mark.parametrize("network", [Dense, Mobile, Shuffle, Upsampling])
def test_operators_of_known_networks_are_those_of_torch(network: type[nn.Module]) -> None:
    model = stand_in(network())
    check_operators(model, neutral_graph(model))


class NormalisedGate(nn.Module):
    """A gate of averages that are 0 but for rounding, and a layer of such averages."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1, bias=False)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.instance_norm(self.stem(x))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        logits: Tensor = self.head(torch.relu(x).mean((2, 3)))
        return logits


def test_rounding_of_averages_that_are_nothing_is_no_difference() -> None:
    model = stand_in(NormalisedGate())
    check_operators(model, neutral_graph(model))


def test_what_a_runtime_lists_is_part_of_its_reason() -> None:
    with pytest.raises(ExportError, match="must execute every operator") as caught:
        rehearse(stand_in(Resized(size=(7, 7), mode="bicubic")), BOTH)
    assert "4-D inputs with the corresponding" in caught.value.received
    assert "\n" not in caught.value.received


def test_each_graph_answers_one_image_and_several(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = [], Session.logits

    def recording(session: Session, batch: Tensor) -> Tensor:
        asked.append(len(batch))
        return answer(session, batch)

    monkeypatch.setattr(Session, "logits", recording)
    rehearse(stand_in(Residual()), BOTH)
    assert asked == [1, 3] * len(BOTH)


def test_no_onnx_form() -> None:
    with pytest.raises(ExportError, match="ONNX form") as caught:
        rehearse(stand_in(Ending("median")), BOTH)
    assert caught.value.received.startswith("aten.median.dim at ")
    assert __file__ in caught.value.received


def test_no_kernel_in_onnx_runtime() -> None:
    with pytest.raises(ExportError, match="must execute every operator") as caught:
        rehearse(stand_in(Ending("atanh")), BOTH)
    assert "replace the operator" in caught.value.remedy


def test_a_graph_that_loads_and_does_not_run() -> None:
    sizes = onnx.numpy_helper.from_array(np.array([5, -1], np.int64), "sizes")
    shape = onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["n", 3, 2, 2])
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)
    node = onnx.helper.make_node("Reshape", ["input", "sizes"], ["logits"])
    graph = onnx.helper.make_graph([node], "twelve", [shape], [logits], [sizes])
    opset = [onnx.helper.make_opsetid("", 21)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    session = open_session(model.SerializeToString())
    with pytest.raises(ExportError, match="must run in ONNX Runtime") as caught:
        session.logits(torch.zeros(1, 3, 2, 2))
    assert "Reshape" in caught.value.received


def test_the_stand_in_has_the_graph_of_the_fitted_student() -> None:
    fitted, unfitted = calibrated(Residual(), SCHEME), stand_in(Residual())
    kept = [str(n.target) for n in unfitted.graph.graph.nodes if n.op == "call_module"]
    assert kept == [str(n.target) for n in fitted.graph.nodes if n.op == "call_module"]


def test_another_failure_keeps_its_first_line() -> None:
    error = RuntimeError("outer")
    error.__cause__ = ValueError("sizes differ\nsecond line")
    assert describe_failure(error, captured(Residual())) == "sizes differ"


def test_familiar_operators_need_no_rehearsal() -> None:
    assert all_known(captured(Residual()).graph)
    assert not all_known(captured(Ending("median")).graph)
