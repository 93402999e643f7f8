"""Convolutions of few channels on a layout that the kernel reads in place: the same integers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lrq_deploy.export.dialects.onnxruntime import OnnxRuntimeTarget
from lrq_deploy.export.neutral import DOMAIN, QUANTIZE, WEIGHT
from lrq_deploy.export.passes._matching import add_initializer
from lrq_deploy.export.passes.image_channels import ImageChannelsPass
from lrq_deploy.export.runtime.session import open_session

pytestmark = pytest.mark.unit

Size = int | str | ir.SymbolicDim
FLOAT = ir.TensorType(ir.DataType.FLOAT)
INPUT_SCALE, WEIGHT_SCALE, OUTPUT_SCALE = 2.0**-4, 2.0**-6, 2.0**-1
"""Powers of two: every step of the reference is exact."""


@dataclass(frozen=True)
class Layer:
    """One convolution between two quantizers."""

    channels: int = 3
    outputs: int = 16
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    size: tuple[int, int] = (9, 8)
    zero_point: int = 0
    group: int = 1
    dilation: int = 1
    weight_range: int = 64

    @property
    def result(self) -> tuple[int, ...]:
        """Rows and columns of the output."""
        ends = zip(self.size, self.pads[:2], self.pads[2:], self.kernel, self.strides, strict=True)
        reach = self.dilation
        return tuple((n + a + b - reach * (k - 1) - 1) // s + 1 for n, a, b, k, s in ends)

    def weight(self) -> NDArray[np.int8]:
        """Random integers, the same for the same shape."""
        shape = (self.outputs, self.channels // self.group, *self.kernel)
        most = self.weight_range
        return np.random.default_rng(0).integers(-most, most + 1, shape).astype(np.int8)

    def neutral(self) -> ir.Model:
        """The layer as a neutral graph ``input -> logits``."""
        x = ir.Value(name="input", shape=ir.Shape(["batch", self.channels, *self.size]), type=FLOAT)
        graph = ir.Graph([x], [], nodes=[], opset_imports={"": 21, DOMAIN: 1}, name="g")
        image = _quantized(graph, x, "image", INPUT_SCALE, self.zero_point, -128, 127)
        weight_q = add_initializer(graph, "weight_q", self.weight())
        scale = np.full(self.outputs, WEIGHT_SCALE, np.float32)
        attributes: dict[str, str | int | float] = {"name": "layer", "axis": 0}
        attributes |= {"input_scale": INPUT_SCALE, "input_zero_point": self.zero_point}
        attributes |= {"input_qmin": -128, "input_qmax": 127}
        inputs = [weight_q, add_initializer(graph, "weight_scale", scale)]
        weight = ir.node(WEIGHT, inputs, attributes, domain=DOMAIN)
        real = _append(graph, weight, "weight", self.weight().shape)
        convolution = ir.node(
            "Conv",
            [image, real],
            {
                "kernel_shape": list(self.kernel),
                "strides": list(self.strides),
                "pads": list(self.pads),
                "dilations": [self.dilation] * 2,
                "group": self.group,
            },
        )
        sums = _append(graph, convolution, "sums", ("batch", self.outputs, *self.result))
        result = _quantized(graph, sums, "result", OUTPUT_SCALE, 0, 0, 127)
        named = ir.node("Identity", [result])
        graph.outputs.append(_append(graph, named, "logits", list(sums.shape or [])))
        return ir.Model(graph, ir_version=10)

    def expected(self, x: torch.Tensor) -> torch.Tensor:
        """What the layer gives, in float64 on integers."""
        q = (x.double() / INPUT_SCALE).round() + self.zero_point
        integers = q.clamp(-128, 127) - self.zero_point
        top, left, bottom, right = self.pads
        sums = F.conv2d(
            F.pad(integers, (left, right, top, bottom)),
            torch.from_numpy(self.weight()).double(),
            stride=self.strides,
            dilation=self.dilation,
            groups=self.group,
        )
        real = sums * (INPUT_SCALE * WEIGHT_SCALE / OUTPUT_SCALE)
        return (real.round().clamp(0, 127) * OUTPUT_SCALE).float()


def _append(graph: ir.Graph, node: ir.Node, name: str, shape: Sequence[Size]) -> ir.Value:
    graph.append(node)
    output = node.outputs[0]
    output.name, output.shape, output.type = name, ir.Shape(shape), FLOAT
    return output


def _quantized(
    graph: ir.Graph, x: ir.Value, name: str, scale: float, zero_point: int, qmin: int, qmax: int
) -> ir.Value:
    attributes: dict[str, str | int | float] = {"name": name, "scale": scale}
    attributes |= {"zero_point": zero_point, "qmin": qmin, "qmax": qmax, "low": qmin, "high": qmax}
    node = ir.node(QUANTIZE, [x], attributes, domain=DOMAIN)
    return _append(graph, node, f"{name}_real", list(x.shape or []))


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def assert_exact(layer: Layer) -> ir.Model:
    """Lower the layer; without and with fusions it gives the expected values, bit for bit."""
    model = layer.neutral()
    OnnxRuntimeTarget().lower(model)
    data = ir.to_proto(model).SerializeToString()
    x = torch.randn(2, layer.channels, *layer.size, generator=torch.Generator().manual_seed(1)) * 6
    for level in ("off", "all"):
        assert torch.equal(open_session(data, level=level).logits(x), layer.expected(x))
    return model


@settings(max_examples=40)
@given(
    st.builds(
        Layer,
        channels=st.integers(1, 4),
        outputs=st.sampled_from([16, 20]),
        kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
        strides=st.integers(1, 4).map(lambda s: (s, s)),
        pads=st.tuples(*[st.integers(0, 3)] * 4),
        size=st.tuples(st.integers(7, 15), st.integers(7, 15)),
        zero_point=st.sampled_from([0, -128, 37]),
        weight_range=st.sampled_from([7, 64, 127]),
    )
)
def test_any_layout_gives_the_same_integers(layer: Layer) -> None:
    assert_exact(layer)


def test_a_small_kernel_gets_a_channel_of_zeros() -> None:
    model = assert_exact(Layer(strides=(2, 2)))
    kinds = operators(model)
    assert kinds.count("Pad") == 1
    assert "SpaceToDepth" not in kinds
    assert model.graph.initializers["layer.weight_arranged"].shape == ir.Shape([16, 4, 3, 3])


def test_a_large_kernel_reads_squares_of_pixels() -> None:
    layer = Layer(kernel=(7, 7), strides=(2, 2), pads=(3, 3, 3, 3), size=(20, 21))
    model = assert_exact(layer)
    assert operators(model).count("SpaceToDepth") == 1
    assert model.graph.initializers["layer.weight_arranged"].shape == ir.Shape([16, 12, 4, 4])


def test_without_squares_there_is_a_channel_of_zeros_or_nothing() -> None:
    for kernel, kinds in (((3, 3), ["Pad"]), ((11, 11), [])):
        model = Layer(kernel=kernel, strides=(4, 4), size=(20, 20)).neutral()
        ImageChannelsPass(squares=False)(model)
        assert [k for k in operators(model) if k in ("Pad", "SpaceToDepth")] == kinds


@pytest.mark.parametrize(
    ("layer", "rows"),
    [
        (Layer(kernel=(11, 11), strides=(4, 4), pads=(2, 2, 2, 2), size=(35, 35)), 3),
        (Layer(kernel=(4, 4), strides=(4, 4), pads=(0, 0, 0, 0), size=(12, 12)), 1),
        (Layer(kernel=(5, 5), strides=(2, 2), size=(12, 12)), 3),
        (Layer(channels=1, strides=(2, 2), size=(12, 12)), 2),
    ],
    ids=["AlexNet", "patches", "5 x 5", "grey"],
)
def test_what_was_faster_in_squares_is_in_squares(layer: Layer, rows: int) -> None:
    model = assert_exact(layer)
    assert operators(model).count("SpaceToDepth") == 1
    shape = [16, layer.channels * layer.strides[0] ** 2, rows, rows]
    assert model.graph.initializers["layer.weight_arranged"].shape == ir.Shape(shape)


def test_the_movement_is_on_integers() -> None:
    model = assert_exact(Layer(kernel=(7, 7), strides=(2, 2), size=(20, 21)))
    moved = [n.outputs[0].dtype for n in model.graph if n.op_type in ("Pad", "SpaceToDepth")]
    assert moved == [ir.DataType.UINT8] * 2


def test_a_cut_border_is_exact() -> None:
    """The stride leaves pixels over that no tap reads."""
    assert_exact(Layer(kernel=(4, 4), strides=(4, 4), pads=(0, 0, 0, 0), size=(11, 10)))


@pytest.mark.parametrize(
    "layer",
    [
        Layer(channels=4),
        Layer(outputs=8),
        Layer(kernel=(1, 1)),
        Layer(kernel=(16, 16), strides=(16, 16), pads=(0, 0, 0, 0), size=(32, 32)),
        Layer(kernel=(11, 11), size=(20, 20)),
        Layer(kernel=(9, 9), strides=(4, 4), size=(20, 20)),
        Layer(strides=(1, 2)),
        Layer(group=3, outputs=18),
        Layer(dilation=2),
    ],
)
def test_other_layers_stay(layer: Layer) -> None:
    assert_exact(layer)
    assert not ImageChannelsPass()(layer.neutral()).modified


def test_an_unknown_size_stays() -> None:
    model = Layer().neutral()
    image = model.graph.node(0).outputs[0]
    image.shape = ir.Shape(["batch", 3, "height", "width"])
    assert not ImageChannelsPass()(model).modified
