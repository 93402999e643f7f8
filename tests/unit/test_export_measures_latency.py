"""Latency against the float twin: what is measured, what is refused."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from support.frozen_graphs import residual_student

from lrq_deploy.errors import BoundError, ExportError, OptionError
from lrq_deploy.export.float_twin import float_twin
from lrq_deploy.export.measures.latency import (
    BatchLatency,
    Benchmark,
    BenchmarkOptions,
    Distribution,
    measure_latency,
)
from lrq_deploy.export.onnx_graph import save_onnx
from lrq_deploy.export.runtime.peak_memory import peak_memory_bytes
from lrq_deploy.export.runtime.session import open_session
from lrq_deploy.progress import ProgressEvent

pytestmark = pytest.mark.unit


def scaling(path: Path, side: int = 8, batch: str | int = "batch", count: int = 1) -> Path:
    """Graph ``[N, 3, side, side] -> [N, 3]`` with ``count`` products of large matrices."""
    nodes = [helper.make_node("ReduceSum", ["input", "axes"], ["x0"], keepdims=0)]
    nodes += [helper.make_node("MatMul", [f"x{i}", "m"], [f"x{i + 1}"]) for i in range(count)]
    nodes.append(helper.make_node("Identity", [f"x{count}"], ["logits"]))
    matrix = np.eye(3, dtype=np.float32)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, [batch, 3, side, side])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [batch, 3])],
        [
            numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
            numpy_helper.from_array(matrix, "m"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def renamed(source: Path, path: Path, more_outputs: bool = False) -> Path:
    """The same graph as another exporter may call its ends, and leave its sizes unstated."""
    model = onnx.load(source)
    names = {"input": "x", "logits": "linear"}
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "classes"
    if more_outputs:
        model.graph.output.append(helper.make_empty_tensor_value_info("x0"))
    onnx.save(model, path)
    return path


def result(ratio: float) -> Benchmark:
    same = Distribution(10.0, 11.0, 12.0)
    batches = tuple(
        BatchLatency(size, same, Distribution(10 * r, 0, 0)) for size, r in ((1, 0.5), (8, ratio))
    )
    return Benchmark(BenchmarkOptions(), "cpu", "rt", batches, 1, 1, None, None)


def test_both_graphs_are_measured(tmp_path: Path) -> None:
    short, long = scaling(tmp_path / "a.onnx"), scaling(tmp_path / "b.onnx", count=400)
    events: list[ProgressEvent] = []
    options = BenchmarkOptions(batch_sizes=(1, 3), runs=15)
    found = measure_latency(long, short, options, events.append)
    assert [batch.batch_size for batch in found.batches] == [1, 3]
    assert found.worst_ratio < 1
    for batch in found.batches:
        for times in (batch.float_graph, batch.quantized):
            assert 0 < times.p50_ms <= times.p90_ms <= times.p99_ms
    assert found.float_bytes == long.stat().st_size > found.quantized_bytes
    assert found.quantized_memory_bytes is not None
    assert (events[-1].step, events[-1].total) == (4, 4)
    document = json.loads(json.dumps(found.to_json()))
    assert document["batches"][1]["ratio"] == found.batches[1].ratio
    assert document["options"]["threads"] == 1


def test_percentiles() -> None:
    times = Distribution.of([i / 1000 for i in range(101)])
    assert (times.p50_ms, times.p90_ms, times.p99_ms) == pytest.approx((50, 90, 99))


def test_the_worst_batch_size_decides() -> None:
    assert result(0.9).worst_ratio == pytest.approx(0.9)
    assert result(0.9).batches[0].images_per_second == pytest.approx(200)
    result(0.7).require(0.71)
    with pytest.raises(BoundError, match=r"0\.900 at batch 8"):
        result(0.9).require(0.7)


@pytest.mark.parametrize(
    "wrong",
    [{"threads": 0}, {"batch_sizes": ()}, {"batch_sizes": (1, 0)}, {"runs": 9}, {"warmup": 0}],
)
def test_options_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        BenchmarkOptions(**wrong)  # type: ignore[arg-type]


def test_graphs_that_do_not_compare(tmp_path: Path) -> None:
    options = BenchmarkOptions(batch_sizes=(2,), runs=10)
    a, b = scaling(tmp_path / "a.onnx"), scaling(tmp_path / "b.onnx", side=9)
    with pytest.raises(ExportError, match=r"the same \[batch, C, H, W\]"):
        measure_latency(a, b, options)
    with pytest.raises(ExportError, match="only output"):
        measure_latency(a, renamed(a, tmp_path / "two.onnx", more_outputs=True), options)
    one = scaling(tmp_path / "one.onnx", batch=1)
    with pytest.raises(ExportError, match="batch size 2"):
        measure_latency(one, a, options)


@pytest.mark.parametrize("memory", [False, True])
def test_ends_of_any_name_are_taken(tmp_path: Path, memory: bool) -> None:
    ours = scaling(tmp_path / "a.onnx")
    options = BenchmarkOptions(batch_sizes=(2,), runs=10, memory=memory)
    found = measure_latency(renamed(ours, tmp_path / "stock.onnx"), ours, options)
    assert found.batches[0].float_graph.p50_ms > 0


def test_memory_grows_with_the_batch(tmp_path: Path) -> None:
    path = scaling(tmp_path / "a.onnx", side=256)
    small, large = (peak_memory_bytes(path, size) for size in (1, 64))
    if small is None or large is None:
        pytest.skip("no /proc on this system")
    assert large - small > 40 * 2**20
    with pytest.raises(ExportError, match="exit code 1"):
        peak_memory_bytes(tmp_path / "missing.onnx", 1)


def test_the_twin_is_the_network_without_quantizers(tmp_path: Path) -> None:
    model = residual_student(8, 8, blocks=(1, 1))
    save_onnx(float_twin(model), tmp_path / "float.onnx")
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "float.onnx").graph.node)
    assert {"QuantizeLinear", "DequantizeLinear", "Clip", "Cast"}.isdisjoint(operators)
    # One behind the stem, two in each block; the inner quantizer of a block is signed.
    assert operators["Relu"] == 5
    assert operators["Conv"] == 5
    images = torch.randn(4, *model.input_shape, generator=torch.Generator().manual_seed(2))
    found = open_session(tmp_path / "float.onnx").logits(images)
    torch.testing.assert_close(found, model.logits(images), rtol=0.1, atol=0.1)
