"""Limits that the saturation of uint8 takes over: the same integers with fewer operators."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from support.small_networks import CENTRED, SHAPE, Mobile, Residual, calibrated, images

from lrq_deploy.export.onnx_graph import save_onnx, to_onnx
from lrq_deploy.export.parity.exposure import exact_trace, first_divergence, onnx_trace
from lrq_deploy.export.passes.integer_weights import IntegerWeightsPass
from lrq_deploy.export.passes.upper_saturation import UpperSaturationPass
from lrq_deploy.export.runtime.session import OptimizationLevel, open_session
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.freeze import freeze
from lrq_deploy.student.frozen import QuantizedModel

pytestmark = pytest.mark.unit

WHOLE = """
<ir_version: 10, opset_import: ["": 21, "lrq": 1]>
g (float[1, 2, 16, 8] input) => (float[1, 2, 16, 8] logits)
<float fine = {0.5}, float coarse = {5.25}, uint8 wide = {FIRST_ZERO}, uint8 zero = {ZERO},
 uint8[1, 1, 1, 1] none = {0},
 uint8 low = {LOW}, uint8 high = {HIGH}, int8[2, 2, 1, 1] w = {WEIGHTS}, float[2] steps = {1, 2}>
{
  first = QuantizeLinear (input, fine, wide)
  real = DequantizeLinear (first, fine, wide)
  nothing = DequantizeLinear (none, fine, wide)
  source = SOURCE
  stored = QuantizeLinear (source, coarse, zero)
  limited = Clip (stored, low, high)
  narrow = DequantizeLinear (limited, coarse, zero)
  weight = lrq.DequantizeWeight <name = "layer", axis = 0, input_scale = 5.25,
    input_zero_point = 0, input_qmin = 0, input_qmax = 15> (w, steps)
  sums = Conv (narrow, weight)
  logits = RESULT
}
"""
AS_IT_IS = {
    "FIRST_ZERO": "0",
    "ZERO": "0",
    "LOW": "0",
    "HIGH": "15",
    "WEIGHTS": "7, -8, -8, -8",
    "SOURCE": "Add (real, nothing)",
    "RESULT": "Identity (sums)",
}
LEVELS: tuple[OptimizationLevel, ...] = ("off", "all")
EVERY_INTEGER = torch.arange(256.0).reshape(1, 2, 16, 8) * 0.5


def model_of(**changes: str) -> ir.Model:
    """A narrow copy of a tensor of 0..255 between a quantizer and a layer, as text and changed."""
    text = WHOLE
    for name, value in {**AS_IT_IS, **changes}.items():
        text = text.replace(name, value)
    proto = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))
    model = ir.serde.deserialize_model(proto)
    ir.passes.common.IdentityEliminationPass()(model)
    return model


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def bits(model: ir.Model) -> list[bytes]:
    """Logits of every integer, before and after ONNX Runtime's fusions."""
    IntegerWeightsPass(packed=())(model)
    data = ir.serde.serialize_model(model).SerializeToString()
    return [open_session(data, level=x).logits(EVERY_INTEGER).numpy().tobytes() for x in LEVELS]


@pytest.mark.parametrize(
    "source",
    [
        "Add (real, nothing)",
        "Relu (real)",
        "Add (real, real)",
        "Mul (real, real)",
        "AveragePool <kernel_shape = [1, 1]> (real)",
    ],
)
@pytest.mark.parametrize("high", ["15", "9"])
def test_every_integer_stays_what_it_is(source: str, high: str) -> None:
    before, after = (model_of(SOURCE=source, HIGH=high) for _ in range(2))
    assert UpperSaturationPass()(after).modified
    assert "Clip" not in kinds(after)
    zero_points = [n.inputs[2] for n in after.graph if n.op_type == "QuantizeLinear"]
    assert [int(z.const_value.numpy()) for z in zero_points if z and z.const_value] == [
        0,
        255 - int(high),
    ]
    first, second = bits(before), bits(after)
    assert first == second
    assert len(set(first)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"FIRST_ZERO": "128"}, id="values below zero"),
        pytest.param({"LOW": "2"}, id="a limit above zero"),
        pytest.param({"ZERO": "8"}, id="a limit below zero"),
        pytest.param({"WEIGHTS": "100, 100, 1, 1"}, id="pair sums that would saturate"),
        pytest.param({"SOURCE": "Neg (real)"}, id="an operator that changes the sign"),
        pytest.param({"SOURCE": "Add (input, real)"}, id="an operand that nobody knows"),
        pytest.param({"RESULT": "Add (sums, narrow)"}, id="a reader without weights"),
        pytest.param(
            {
                "  sums =": "  other = DequantizeLinear (stored, coarse, zero)\n  sums =",
                "RESULT": "Add (sums, other)",
            },
            id="a reader in front of the limit",
        ),
    ],
)
def test_what_needs_its_limits_keeps_them(changes: dict[str, str]) -> None:
    model = model_of(**changes)
    assert not UpperSaturationPass()(model).modified
    assert kinds(model).count("Clip") == 1


@pytest.fixture(scope="module", params=[Residual, Mobile], ids=["residual", "mobile"])
def student(request: pytest.FixtureRequest) -> QuantizedModel:
    scheme = Scheme(4, 4, 8)
    graph, table = freeze(calibrated(request.param(), scheme, count=32))
    return QuantizedModel(graph, table, scheme, SHAPE, 5, CENTRED, "small", "")


def test_students_keep_their_integers(
    student: QuantizedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorter = to_onnx(student, "onnxruntime")
    monkeypatch.setattr(
        UpperSaturationPass, "call", lambda self, model: ir.passes.PassResult(model, False)
    )
    longer = to_onnx(student, "onnxruntime")
    clips = [sum(n.op_type == "Clip" for n in m.graph.node) for m in (longer, shorter)]
    assert clips[0] > clips[1] > 0
    batch = images(16)
    expected = exact_trace(student, batch)
    for name, model in (("longer", longer), ("shorter", shorter)):
        save_onnx(model, tmp_path / f"{name}.onnx")
        for level in LEVELS:
            found = onnx_trace(student, tmp_path / f"{name}.onnx", batch, level)
            assert found.keys() == expected.keys()
            assert first_divergence(student, expected, found) is None
    logits = [
        open_session(m.SerializeToString(), level=level).logits(batch)
        for m in (longer, shorter)
        for level in LEVELS
    ]
    np.testing.assert_allclose(logits[1:], [logits[0]] * 3, rtol=1e-6)


def test_the_residual_student_loses_the_limits_of_its_narrow_copies() -> None:
    scheme = Scheme(4, 4, 8)
    graph, table = freeze(calibrated(Residual(), scheme, count=32))
    model = QuantizedModel(graph, table, scheme, SHAPE, 5, CENTRED, "small", "")
    proto = to_onnx(model, "onnxruntime")
    limited = {n.input[0].removesuffix(".rounded") for n in proto.graph.node if n.op_type == "Clip"}
    narrow = {name for name in model.quantizers() if name.endswith("_narrow")}
    assert narrow
    assert not narrow & limited
