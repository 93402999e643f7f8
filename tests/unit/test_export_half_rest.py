"""The rest of an engine in FP16: what changes type, and what must not."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from support.frozen_graphs import mobile_student, residual_student

from lrq_deploy.export.engine.from_bundle import with_half_rest
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.export.runtime.session import open_session

pytestmark = pytest.mark.unit


def test_curves_run_in_half_precision_and_sums_do_not() -> None:
    model = mobile_student(asymmetric=False)
    plain = to_onnx(model, "tensorrt")
    data = with_half_rest(plain.SerializeToString())
    half = onnx.load_model_from_string(data)
    assert {p.key: p.value for p in half.metadata_props} == {
        p.key: p.value for p in plain.metadata_props
    }
    types = _types(half)
    for node in half.graph.node:
        curved = node.op_type in {"HardSwish", "HardSigmoid"}
        if curved or node.op_type in {"Add", "Mul", "Conv", "Gemm", "GlobalAveragePool"}:
            assert types[node.output[0]] == (np.float16 if curved else np.float32), node.op_type
    assert sum(node.op_type in {"HardSwish", "HardSigmoid"} for node in half.graph.node) == 2
    scales = [x for x in half.graph.initializer if x.name.endswith("scale")]
    assert all(numpy_helper.to_array(x).dtype == np.float32 for x in scales)
    images = torch.randn(32, *model.input_shape, generator=torch.Generator().manual_seed(0))
    expected = open_session(plain.SerializeToString(), level="off").logits(images)
    logits = open_session(data, level="off").logits(images)
    assert float((logits - expected).abs().max()) <= 0.05 * float(expected.abs().max())


def _types(model: onnx.ModelProto) -> dict[str, type]:
    """Element types of every result."""
    values = onnx.shape_inference.infer_shapes(model).graph.value_info
    known = [*values, *model.graph.output]
    return {
        x.name: onnx.helper.tensor_dtype_to_np_dtype(x.type.tensor_type.elem_type).type
        for x in known
    }


def test_a_graph_without_float_rest_stays() -> None:
    plain = to_onnx(residual_student(4, 4, blocks=(1,)), "tensorrt").SerializeToString()
    half = onnx.load_model_from_string(with_half_rest(plain))
    assert "Cast" not in {node.op_type for node in half.graph.node}
