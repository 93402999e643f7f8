"""onnxruntime's own quantizer as the third graph of a benchmark, and the picture of it."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from PIL import Image
from support.frozen_graphs import residual_student

from lrq_deploy.errors import ExportError, ImageError
from lrq_deploy.export.derived.static_baseline import agreements, static_baseline
from lrq_deploy.export.float_twin import float_twin
from lrq_deploy.export.measures.latency import BenchmarkOptions, measure_latency
from lrq_deploy.export.measures.latency_picture import latency_png
from lrq_deploy.export.onnx_graph import save_onnx, to_onnx

pytestmark = pytest.mark.unit


def test_three_graphs_of_one_network_are_compared(tmp_path: Path) -> None:
    model = residual_student(8, 8, blocks=(1,))
    images = torch.randn(24, *model.input_shape, generator=torch.Generator().manual_seed(3))
    paths = [tmp_path / f"{name}.onnx" for name in ("float", "ours", "static")]
    save_onnx(float_twin(model), paths[0])
    save_onnx(to_onnx(model), paths[1])
    static_baseline(paths[0], iter(images.split(8)), paths[2])
    # Of so small a network the names take more room than the weights.
    assert onnx.TensorProto.INT8 in {t.data_type for t in onnx.load(paths[2]).graph.initializer}

    ours, theirs, itself = agreements(
        paths[0], [paths[1], paths[2], paths[0]], iter(images.split(8)), "multiclass"
    )
    assert itself == 1
    assert min(ours, theirs) > 0.5

    options = BenchmarkOptions(batch_sizes=(1, 2), runs=10, memory=False)
    found = measure_latency(paths[0], paths[1], options, static_model=paths[2])
    assert list(found.batches[0].graphs()) == ["float", "quantized", "static"]
    assert found.batches[0].static_ratio is not None
    assert found.static_bytes == paths[2].stat().st_size
    assert found.to_json()["batches"][1]["static_ratio"] > 0

    picture = Image.open(io.BytesIO(latency_png(found)))
    pair = replace(found, batches=(replace(found.batches[0], static=None),))
    assert picture.height - Image.open(io.BytesIO(latency_png(pair))).height == 4 * 22


def test_the_image_of_the_float_graph_may_have_any_name(tmp_path: Path) -> None:
    model = residual_student(8, 8, blocks=(1,))
    save_onnx(float_twin(model), tmp_path / "float.onnx")
    graph = onnx.load(tmp_path / "float.onnx")
    graph.graph.input[0].name = "x"
    for node in graph.graph.node:
        node.input[:] = ["x" if name == "input" else name for name in node.input]
    onnx.save(graph, tmp_path / "float.onnx")
    images = torch.randn(4, *model.input_shape, generator=torch.Generator().manual_seed(3))
    static_baseline(tmp_path / "float.onnx", iter([images]), tmp_path / "static.onnx")
    (share,) = agreements(
        tmp_path / "float.onnx", [tmp_path / "static.onnx"], iter([images]), "multiclass"
    )
    assert share > 0.5


def test_it_needs_images(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="none"):
        static_baseline(tmp_path / "float.onnx", iter(()), tmp_path / "out.onnx")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_graph_whose_values_are_not_numbers_is_refused(tmp_path: Path) -> None:
    weight = np.ones((2, 3, 1, 1), np.float32)
    nodes = [
        helper.make_node("Sqrt", ["input"], ["root"]),
        helper.make_node("Conv", ["root", "weight"], ["logits"]),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "roots",
        [helper.make_tensor_value_info("input", kind, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info("logits", kind, ["batch", 2, 4, 4])],
        [numpy_helper.from_array(weight, "weight")],
    )
    opset = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "f.onnx")
    images = torch.full((2, 3, 4, 4), -1.0)
    with pytest.raises(ExportError, match="AssertionError"):
        static_baseline(tmp_path / "f.onnx", iter([images]), tmp_path / "out.onnx")
