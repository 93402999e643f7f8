"""Kernels for SiLU and hard-swish: every integer that can occur, against the formula in float64."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lrq_deploy.export.dialects.onnxruntime import OnnxRuntimeTarget
from lrq_deploy.export.neutral import DOMAIN, QUANTIZE
from lrq_deploy.export.passes.curved_activations import CurvedActivationsPass
from lrq_deploy.export.runtime.session import OptimizationLevel, open_session

pytestmark = pytest.mark.unit

LEVELS: tuple[OptimizationLevel, ...] = ("all", "off")
OUT = (0.0371, -40, 215)
"""Scale, smallest and largest integer of the result; its zero point is 0."""


def curved(op_type: str, scale: float, qmin: int, other_reader: bool = False) -> ir.Model:
    """``input`` [N, 256] -> 8 bits from ``qmin`` -> activation -> 8 bits -> ``logits``."""
    kind = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="input", shape=ir.Shape(["batch", 256]), type=kind)
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 21, DOMAIN: 1}, name="g")

    def append(node: ir.Node) -> ir.Value:
        graph.append(node)
        output = node.outputs[0]
        output.name, output.shape, output.type = f"v{len(graph)}", x.shape, kind
        return output

    def quantized(value: ir.Value, scale: float, qmin: int, qmax: int) -> ir.Value:
        integers = {"zero_point": 0, "qmin": qmin, "qmax": qmax, "low": qmin, "high": qmax}
        attributes: dict[str, str | int | float] = {"name": f"q{len(graph)}", "scale": scale}
        attributes |= integers
        return append(ir.node(QUANTIZE, [value], attributes, domain=DOMAIN))

    stored = quantized(x, scale, qmin, qmin + 255)
    if op_type == "HardSwish":
        result = append(ir.node("HardSwish", [stored]))
    else:
        gate = append(ir.node("Sigmoid", [stored]))
        result = append(ir.node("Mul", [gate, stored]))
        result = append(ir.node("Add", [result, gate])) if other_reader else result
    graph.outputs.append(quantized(result, *OUT))
    return ir.Model(graph, ir_version=10)


def lowered(op_type: str, scale: float, qmin: int, other_reader: bool = False) -> ir.Model:
    model = curved(op_type, scale, qmin, other_reader)
    OnnxRuntimeTarget().lower(model)
    model.graph.outputs[0].name = "logits"
    return model


def kinds(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def formula(op_type: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    gate = np.clip(x + 3, 0, 6) / 6 if op_type == "HardSwish" else 1 / (1 + np.exp(-x))
    return np.asarray(x * gate)


def runtime_kinds(content: bytes, folder: Path) -> Counter[str]:
    """Operators that ONNX Runtime really runs."""
    open_session(content, optimized=folder / "optimized.onnx")
    return kinds(ir.load(folder / "optimized.onnx"))


def check(model: ir.Model, op_type: str, scale: float, qmin: int) -> bytes:
    """All 256 integers, optimised and not; what lies on a tie may go to either side."""
    x = np.float32(scale) * np.arange(qmin, qmin + 256).astype(np.float32)
    steps = formula(op_type, x.astype(np.float64)) / float(np.float32(OUT[0]))
    clear = np.abs(steps - np.floor(steps) - 0.5) > 1e-4
    expected = np.clip(np.rint(steps), OUT[1], OUT[2])
    content: bytes = ir.serde.serialize_model(model).SerializeToString()
    for level in LEVELS:
        result = open_session(content, level=level).logits(torch.from_numpy(x[None]))
        integers = np.rint(result[0].numpy() / np.float32(OUT[0]))
        assert np.array_equal(integers[clear], expected[clear]), level
    return content


@settings(max_examples=25)
@given(steps=st.integers(16, 128), qmin=st.integers(-128, -16))
def test_hard_swish_is_exact_in_integers_where_its_ends_are(steps: int, qmin: int) -> None:
    scale = float(np.float32(3 / steps))
    model = lowered("HardSwish", scale, qmin)
    assert ("HardSwish" not in kinds(model)) == (steps <= -qmin)
    check(model, "HardSwish", scale, qmin)


def test_hard_swish_runs_as_two_integer_kernels(tmp_path: Path) -> None:
    model = lowered("HardSwish", 3 / 60, -100)
    found = runtime_kinds(check(model, "HardSwish", 3 / 60, -100), tmp_path)
    assert found == {"QuantizeLinear": 1, "Clip": 1, "QLinearMul": 1, "DequantizeLinear": 1}


def test_hard_swish_stays_where_3_is_no_multiple_of_the_scale() -> None:
    model = lowered("HardSwish", 3 / 60.01, -100)
    assert kinds(model)["HardSwish"] == 1
    check(model, "HardSwish", 3 / 60.01, -100)


@settings(max_examples=10)
@given(scale=st.floats(0.01, 0.2), qmin=st.integers(-128, -1))
def test_silu_is_one_operator(scale: float, qmin: int) -> None:
    scale = float(np.float32(scale))
    model = lowered("SiLU", scale, qmin)
    assert kinds(model) == {"QuantizeLinear": 2, "QuickGelu": 1, "DequantizeLinear": 2}
    check(model, "SiLU", scale, qmin)


def test_silu_reads_a_tensor_that_is_dequantized_once(tmp_path: Path) -> None:
    model = lowered("SiLU", 0.05, -100)
    content: bytes = ir.serde.serialize_model(model).SerializeToString()
    assert runtime_kinds(content, tmp_path)["DequantizeLinear"] == 2


def test_a_sigmoid_that_others_read_stays_beside_it() -> None:
    model = lowered("SiLU", 0.05, -100, other_reader=True)
    found = kinds(model)
    assert (found["QuickGelu"], found["Sigmoid"], found["Mul"]) == (1, 1, 0)


def test_quantizers_must_be_lowered_first() -> None:
    with pytest.raises(ir.passes.PreconditionError):
        CurvedActivationsPass()(curved("SiLU", 0.05, -100))
