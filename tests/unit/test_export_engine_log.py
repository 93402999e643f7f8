"""Reading the types of an engine's layers from the log of its build."""

from collections.abc import Iterable

import pytest
import torch
from support.frozen_graphs import FrozenGraphBuilder, aten, residual_student

from lrq_deploy.export.engine.log import EngineLayer, audit_engine, read_layers
from lrq_deploy.graph.specification import LayerSpec

pytestmark = pytest.mark.unit


def line(name: str, kind: str, operand: str, weight: str) -> str:
    """As tensorrt_rtx 1.7 logs it, shortened."""
    tensor = "{{ Name: {}, Dimensions: [-1,8,16,16], Datatype: {}, Format: (NHWC) Channel major }}"
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: [ {tensor.format('x', operand)}], "
        f"Constants: [ {tensor.format('w', weight)}, {tensor.format('scale', 'Float')}], "
        f"Outputs: [ {tensor.format('y', 'Float')}], TacticName: , StreamId: 0, Metadata: "
    )


def test_layers_are_read_among_other_lines() -> None:
    log = ["Engine built", "Layers:\n" + line("layers.l1_myl0_2", "correlation", "Int8", "Int8")]
    expected = EngineLayer("layers.l1_myl0_2", "correlation", ("int8",), ("int8", "float"))
    assert read_layers(log) == (expected,)


@pytest.mark.parametrize(
    ("name", "node", "held"),
    [
        ("layers.l1_myl0_2", "layers.l1", True),
        ("layers.l13_myl0_2", "layers.l1", False),
        ("layers.l1", "layers.l1", True),
        ("layers.l1 + quantizers.q2.Relu", "layers.l1", True),
        ("layers.l1_expand_myl0_1", "layers.l1_expand", True),
        ("layers.l1_expand_myl0_1", "layers.l1", False),
        ("layers.l1.conv_myl0_1", "layers.l1", False),
        ("other.layers.l1_myl0_1", "layers.l1", False),
    ],
)
def test_a_layer_is_found_by_its_whole_name(name: str, node: str, held: bool) -> None:
    assert EngineLayer(name, "conv", (), ()).holds(node) is held


def test_float_and_missing_layers_are_reported() -> None:
    model = residual_student(blocks=(1,))
    first, second, third, last = model.layers()
    log = [
        line("__myl_MulRoun_myl0_1", "kgen", "Float", "Float"),
        line(f"{first}_myl0_2", "correlation", "Int8", "Int8"),
        line(f"{second}_myl0_4", "correlation", "Float", "Float"),
        line(f"{last}_myl0_9", "gemm", "Int8", "Int8"),
    ]
    coverage = audit_engine(model, log)
    assert coverage is not None
    assert [layer.integer for layer in coverage.layers] == [True, False, False, True]
    reasons = {layer.name: layer.reason for layer in coverage.fallbacks}
    assert "multiplies float and float" in reasons[second]
    assert "does not name" in reasons[third]
    assert coverage.float_operators == {"kgen": 1}
    assert coverage.layer_share == 0.5
    assert 0 < coverage.share < 0.5


def test_a_transposed_convolution_is_not_sent_to_another_gpu() -> None:
    sample = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    builder = FrozenGraphBuilder(sample)
    up = LayerSpec("conv_transpose2d", stride=(2, 2))
    x = builder.layer(builder.quantize(builder.input), 4, kernel=2, spec=up)
    x = builder.quantize(builder.call(aten.mean.dim, x, [-1, -2]))
    model = builder.finish(builder.layer(x, 5, spec=LayerSpec("linear")))
    log = [line(f"{name}_myl0_2", "deconv", "Float", "Float") for name in model.layers()]
    coverage = audit_engine(model, log)
    assert coverage is not None
    up_reason, head_reason = (layer.reason for layer in coverage.layers)
    assert "has an INT8 transposed convolution; resize and convolve instead" in up_reason
    assert "another GPU" not in up_reason
    assert head_reason.endswith("build for another GPU type")


def test_a_silent_log_proves_nothing() -> None:
    assert audit_engine(residual_student(blocks=(1,)), ["Engine built in 2 s"]) is None


LONG_INT8 = "Format/Datatype: Thirty-two wide channel vectorized row major Int8 format"
DYNAMIC = "Format/Datatype: N/A due to dynamic shapes"
INT8_TACTIC = "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32"


def tensorrt_lines(
    names: Iterable[str],
    tensor: str,
    weights: str = "Int8",
    tactic: str = INT8_TACTIC,
    source: str = "Format/Datatype: Float",
) -> list[str]:
    """As TensorRT 10 and 11 log a convolution and what is around it, shortened."""
    operand = "{{ Name: {}, Location: Device, Dimensions: [-1,8,16,16], {} }}"
    lines = []
    for name in names:
        fused = f"{name}.weight + {name}.weight.DQ + {name} + quantizers.q1.Relu"
        x, y = (operand.format(tensor_name, tensor) for tensor_name in "xy")
        lines += [
            f"Name: Reformatting CopyNode for Input Tensor 0 to {fused}, LayerType: Reformat, "
            f"Inputs: [ {operand.format('x', source)}], Outputs: [ {x}], "
            "ParameterType: Reformat, Origin: REFORMAT, TacticValue: 0x0, StreamId: 0, Metadata: ",
            f"Name: {fused}, LayerType: CaskConvolution, Inputs: [ {x}], Outputs: [ {y}], "
            "ParameterType: Convolution, Kernel: [3,3], "
            f'Weights: {{"Type": "{weights}", "Count": 432}}, '
            'Bias: {"Type": "Float", "Count": 8}, '
            f"Activation: RELU, TacticName: {tactic}, TacticValue: 0x1, StreamId: 0, Metadata: ",
            f"Name: PWN(quantizers.q1.Relu), LayerType: PointWiseV2, Inputs: [ {y}], "
            f"Outputs: [ {y}], ParameterType: PointWise, TacticValue: 0x1c",
        ]
    return lines


@pytest.mark.parametrize(
    "tensor",
    [
        "Format/Datatype: Int8",
        LONG_INT8,
        "Format/Datatype: Int8(64,1:32,8,1)",
        DYNAMIC,
        "Format: N/A due to dynamic shapes, DataType: Int8",
        "DataType: Int8, Format: Row major linear format",
    ],
)
@pytest.mark.parametrize("tactic", [INT8_TACTIC, "ampere_first_layer_filter3x3_imma_fwd"])
def test_every_form_of_tensorrt_is_read(tensor: str, tactic: str) -> None:
    model = residual_student(blocks=(1,))
    coverage = audit_engine(
        model, tensorrt_lines(model.layers(), tensor, tactic=tactic), "tensorrt"
    )
    assert coverage is not None
    assert coverage.fallbacks == ()
    assert {layer.kernel for layer in coverage.layers} == {"CaskConvolution"}
    # The copies, which read floats and bear the names of the layers; PointWise reads no float.
    assert coverage.float_operators == {"Reformat": 4}


@pytest.mark.parametrize(
    ("tensor", "weights", "received"),
    [
        (
            "Format/Datatype: Channel major FP16 format where channel % 8 == 0",
            "Half",
            "fp16 and half",
        ),
        ("Format/Datatype: Row major linear FP32", "Float", "fp32 and float"),
        (DYNAMIC, "Half", "half"),
        ("Format/Datatype: Int8", "Half", "int8 and half"),
    ],
)
def test_floats_of_tensorrt_are_named(tensor: str, weights: str, received: str) -> None:
    model = residual_student(blocks=(1,))
    log = tensorrt_lines(model.layers(), tensor, weights, "sm80_xmma_f16f16_f16f32")
    coverage = audit_engine(model, log, "tensorrt")
    assert coverage is not None
    assert coverage.share == 0
    for layer in coverage.layers:
        # It builds for one GPU, so no other one is advised.
        remedy = "report it with the network's name and the GPU"
        assert layer.reason == f"the engine multiplies {received}; {remedy}"


def test_what_cannot_be_read_is_unknown_and_not_float() -> None:
    model = residual_student(blocks=(1,))
    first, *rest = model.layers()
    silent = {"tactic": "0x1", "source": DYNAMIC}
    assert audit_engine(model, tensorrt_lines(model.layers(), DYNAMIC, **silent)) is None
    log = tensorrt_lines([first], "Format/Datatype: Int8") + tensorrt_lines(rest, DYNAMIC, **silent)
    coverage = audit_engine(model, log)
    assert coverage is not None
    assert [layer.integer for layer in coverage.layers] == [True, False, False, False]
    assert all("does not say which types" in layer.reason for layer in coverage.fallbacks)
    assert coverage.float_operators == {"Reformat": 1}
