"""The TensorRT dialect: its types, its clamps, and the numbers that it gives."""

from collections import Counter
from collections.abc import Callable
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.frozen_graphs import FrozenGraphBuilder, aten, mobile_student, residual_student
from support.small_networks import CENTRED, SHAPE, Mobile, calibrated, with_statistics
from support.small_networks import images as noise

from lrq_deploy.errors import ExportError, OptionError
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.export.parity.compare import compare
from lrq_deploy.export.parity.simulation import exact_logits
from lrq_deploy.export.runtime.session import open_session
from lrq_deploy.export.targets import targets
from lrq_deploy.graph.specification import LayerSpec
from lrq_deploy.graph.teach import make_teacher
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.freeze import frozen_model
from lrq_deploy.student.frozen import QuantizedModel

pytestmark = pytest.mark.unit

ASYMMETRIC = Scheme(act_symmetry="asymmetric")

STUDENTS: dict[str, Callable[[], QuantizedModel]] = {
    "w4a4": lambda: residual_student(4, 4),
    "w8a8": lambda: residual_student(8, 8),
    "mobile w8a8": lambda: mobile_student(8, 8, asymmetric=False),
    "mobile w2a4": lambda: mobile_student(2, 4, asymmetric=False),
}


def images(model: QuantizedModel, count: int = 100) -> torch.Tensor:
    generator = torch.Generator().manual_seed(99)
    return torch.randn(count, *model.input_shape, generator=generator) * 1.2


def run(graph: onnx.ModelProto, x: torch.Tensor) -> torch.Tensor:
    # Unfused: ONNX Runtime 1.32 turns these int8 tensors into uint8 ones and then refuses the mix.
    return open_session(graph.SerializeToString(), level="off").logits(x)


@cache
def student(name: str) -> tuple[QuantizedModel, onnx.ModelProto]:
    model = STUDENTS[name]()
    return model, to_onnx(model, "tensorrt")


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    parity = compare(ours, theirs)
    assert parity.same_top1 >= 0.99, parity
    # Hand-made scales have rounding ties, which float32 sums settle in their own way.
    assert parity.same_rows >= 0.95, parity


@pytest.mark.parametrize("name", STUDENTS)
def test_the_graph_computes_what_the_student_computes(name: str) -> None:
    model, graph = student(name)
    x = images(model)
    assert_same(exact_logits(model, x), run(graph, x))


def test_both_dialects_are_the_same_arithmetic() -> None:
    model, graph = student("mobile w8a8")
    x = images(model)
    assert_same(run(to_onnx(model, "onnxruntime"), x), run(graph, x))


def test_integers_that_lie_where_values_do_are_the_same_in_both_dialects() -> None:
    scheme = Scheme(4, 4, 4)
    teacher = make_teacher(with_statistics(Mobile()), SHAPE, CENTRED, "mobile", "0" * 64)
    model = frozen_model(calibrated(with_statistics(Mobile()), scheme, count=64), scheme, teacher)
    lowest = {q.qparams.qmin for q in model.quantizers().values() if q.qparams.qmax < 16}
    assert lowest - {0, -8}
    x = noise(200, seed=7)
    for dialect in ("onnxruntime", "tensorrt"):
        assert_same(exact_logits(model, x), run(to_onnx(model, dialect), x))


def test_pooled_values_are_stored_once_for_all_their_readers() -> None:
    b = FrozenGraphBuilder(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3)))
    x = b.quantize(b.layer(b.quantize(b.input, 8), 4), 4)
    x = b.call(aten.max_pool2d.default, x, [2, 2], [2, 2])
    y = b.quantize(b.layer(x, 4), 4)
    z = b.quantize(b.call(aten.add.Tensor, b.quantize(b.layer(x, 4), 4), x), 8)
    z = b.quantize(b.call(aten.add.Tensor, y, z), 8)
    flat = b.call(aten.view.default, z, [-1, 64])
    model = b.finish(b.layer(flat, 4, spec=LayerSpec("linear")))
    proto = to_onnx(model, "tensorrt")
    (pool,) = [n for n in proto.graph.node if n.op_type == "MaxPool"]
    readers = [n.op_type for n in proto.graph.node if pool.output[0] in n.input]
    assert readers == ["QuantizeLinear"]
    inputs = images(model, 50)
    assert_same(exact_logits(model, inputs), run(proto, inputs))


@pytest.mark.parametrize("name", STUDENTS)
def test_only_int8_with_zero_points_0_and_float_biases(name: str) -> None:
    model, proto = student(name)
    graph = proto.graph
    initializers = {x.name: x for x in graph.initializer}
    types = {x.data_type for x in graph.initializer}
    # int64 are shapes and axes; neither uint8 nor int4 nor an int32 bias may appear.
    assert types <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT8, onnx.TensorProto.INT64}
    carriers = [n for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(carriers) > 2 * len(model.quantizers())
    for node in carriers:
        zero_point = onnx.numpy_helper.to_array(initializers[node.input[2]])
        assert zero_point.dtype == np.int8
        assert not zero_point.any()
    producers = {name: node.op_type for node in graph.node for name in node.output}
    weighted = [n for n in graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    assert {n.name for n in weighted} == set(model.layers())
    for node in weighted:
        assert [producers[name] for name in node.input[:2]] == ["DequantizeLinear"] * 2
        layer = model.layers()[node.name]
        assert layer.bias is not None
        bias = np.zeros(1, np.float32)  # what the exporter leaves out
        if len(node.input) > 2:
            bias = onnx.numpy_helper.to_array(initializers[node.input[2]])
        assert np.array_equal(np.broadcast_to(bias, layer.bias.shape), layer.bias.numpy())


def test_clamps_are_only_where_int8_does_not_saturate_by_itself() -> None:
    wide = Counter(n.op_type for n in student("w8a8")[1].graph.node)
    narrow = student("w4a4")[1].graph
    assert (wide["Relu"], wide["Clip"]) == (7, 0)
    clips = [n for n in narrow.node if n.op_type == "Clip"]
    assert len(clips) == 10
    producers = {name: node for node in narrow.node for name in node.output}
    quantizes = [n for n in narrow.node if n.op_type == "QuantizeLinear"]
    unclamped = [n.name for n in quantizes if producers.get(n.input[0]) not in clips]
    # The image and the pooled features have eight bits; the flattened ones are stored again.
    assert len(unclamped) == 3


def test_relu6_becomes_a_relu_where_its_bound_is_beyond_the_range() -> None:
    for scale, expected in ((0.03, "Relu"), (0.06, "Clip")):
        b = FrozenGraphBuilder(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
        x = b.layer(b.quantize(b.input, 8), 4)
        x = b.call(aten.hardtanh.default, x, 0.0, 6.0)
        x = b.quantize_with(x, scale, 0, 0, 127, 8)
        pooled = b.quantize(b.call(aten.mean.dim, x, [2, 3], True), 8)
        flat = b.call(aten.view.default, pooled, [-1, 4])
        model = b.finish(b.layer(flat, 4, spec=LayerSpec("linear")))
        found = [n.op_type for n in to_onnx(model, "tensorrt").graph.node]
        assert [op for op in found if op in ("Relu", "Clip")] == [expected]


@pytest.mark.parametrize("request_", ["tensorrt", "all"])
def test_asymmetric_activations_are_refused_where_it_was_asked_for(request_: str) -> None:
    with pytest.raises(OptionError, match=r"zero points of 0.*asymmetric.*--act-symmetry"):
        targets().choose(request_, ASYMMETRIC)


def test_asymmetric_activations_leave_it_out_with_the_reason() -> None:
    choice = targets().choose("auto", ASYMMETRIC)
    assert [target.name for target in choice.targets] == ["onnxruntime"]
    assert list(choice.refused) == ["tensorrt"]
    (sentence,) = choice.describe_refused()
    assert "no graph for tensorrt: TensorRT takes only zero points of 0" in sentence


def test_the_graph_that_checks_run_on_is_always_written() -> None:
    for request_, names in {
        "onnxruntime": ["onnxruntime"],
        "tensorrt": ["onnxruntime", "tensorrt"],
        "all": ["onnxruntime", "tensorrt"],
    }.items():
        choice = targets().choose(request_, Scheme())
        assert [target.name for target in choice.targets] == names
        assert not choice.refused
    with pytest.raises(OptionError, match=r"openvino.*onnxruntime, tensorrt"):
        targets().choose("openvino", Scheme())


def test_a_zero_point_in_the_table_is_refused() -> None:
    with pytest.raises(ExportError, match="zero point 0"):
        to_onnx(residual_student(8, 8, asymmetric=True), "tensorrt")


def test_a_bias_off_the_grid_is_refused() -> None:
    model = residual_student()
    layer = next(iter(model.layers().values()))
    assert layer.bias is not None
    layer.bias += 0.4 * layer.weight_scale * model.table[layer.input_quantizer].scale
    with pytest.raises(ExportError, match="multiples of scale_x"):
        to_onnx(model, "tensorrt")


def test_same_student_gives_the_same_bytes() -> None:
    graphs = (to_onnx(STUDENTS["w4a4"](), "tensorrt"), student("w4a4")[1])
    first, second = (graph.SerializeToString(deterministic=True) for graph in graphs)
    assert first == second


@settings(max_examples=3)
@given(low=st.integers(-128, 0), high=st.integers(1, 127), scale=st.floats(0.003, 0.5))
def test_any_range_with_zero_point_0_is_carried_exactly(low: int, high: int, scale: float) -> None:
    b = FrozenGraphBuilder(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2)))
    image = b.quantize(b.input, 8)
    x = b.quantize_with(image, scale, 0, low, high, 8)
    flat = b.call(aten.view.default, x, [-1, 192])
    model = b.finish(b.layer(flat, 4, spec=LayerSpec("linear")))
    inputs = images(model, 50)
    parity = compare(exact_logits(model, inputs), run(to_onnx(model, "tensorrt"), inputs))
    # Ties between the two scales are frequent; a range that is wrong moves every row.
    assert parity.same_rows >= 0.7, parity
