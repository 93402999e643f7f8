"""Reading the types of an engine's layers from the log of its build."""

import pytest
import torch
from support.frozen_graphs import FrozenGraphBuilder, aten, residual_student

from lrq_deploy.export.engine_log import EngineLayer, audit_engine, read_layers
from lrq_deploy.student.frozen import LayerSpec

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
