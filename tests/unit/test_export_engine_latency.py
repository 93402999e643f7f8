"""An engine beside its FP16 twin: what is compared, and what is said without a GPU."""

import io
import json
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from rich.console import Console
from support.bundles import bundle_of
from support.frozen_graphs import residual_student
from typer.testing import CliRunner

from lrq_deploy.cli.bench_report import print_benchmark
from lrq_deploy.cli.main import app
from lrq_deploy.errors import ExportError
from lrq_deploy.export.bundle import Bundle
from lrq_deploy.export.engine import default_engine_path
from lrq_deploy.export.engine_file import EngineRecord
from lrq_deploy.export.engine_latency import half_graph, half_options
from lrq_deploy.export.engine_options import EngineOptions
from lrq_deploy.export.latency import (
    BatchLatency,
    Benchmark,
    BenchmarkOptions,
    Distribution,
    EngineBenchmark,
)
from lrq_deploy.export.manifest import FileRecord

pytestmark = pytest.mark.unit

RECORD = EngineRecord(
    FileRecord("0", 1),
    "0",
    "net",
    "W8A8",
    "tensorrt",
    {},
    (),
    (2, 4, 16),
    (3, 8, 8),
    64,
    True,
    None,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    model = residual_student(8, 8, blocks=(1, 1))
    return bundle_of(model, tmp_path_factory.mktemp("bundle") / "net")


def measured(engine_ratio: float) -> Benchmark:
    times = Distribution(10.0, 11.0, 12.0)
    on_cpu = BatchLatency(1, times, Distribution(5.0, 6.0, 7.0))
    on_gpu = BatchLatency(4, times, Distribution(10 * engine_ratio, 0, 0))
    engine = EngineBenchmark("GPU 9", "tensorrt 11", True, (on_gpu,), 2048, 1024, 4096, 1024)
    return Benchmark(BenchmarkOptions(), "cpu", "rt", (on_cpu,), 1, 1, None, None, engine=engine)


def test_the_half_network_computes_in_half_and_answers_alike(bundle: Bundle) -> None:
    model = bundle.model()
    graph = onnx.load_model_from_string(half_graph(model))
    types = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
    layers = [node for node in graph.graph.node if node.op_type in {"Conv", "Gemm", "MatMul"}]
    assert layers
    assert {types[node.input[1]] for node in layers} == {onnx.TensorProto.FLOAT16}
    session = onnxruntime.InferenceSession(half_graph(model))
    images = torch.randn(8, *model.input_shape, generator=torch.Generator().manual_seed(2))
    (found,) = session.run(["logits"], {"input": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model.logits(images), rtol=0.1, atol=0.1)


def test_the_half_engine_takes_what_the_engine_takes() -> None:
    options = half_options(RECORD, 90)
    assert (options.kind, options.sms) == ("tensorrt", ())
    assert (options.batch.sizes(), options.workspace_mib) == ((2, 4, 16), 64)
    assert half_options(replace(RECORD, kind="tensorrt-rtx"), 90).sms == (90,)
    assert EngineOptions("tensorrt-rtx", (90,)).compute_capabilities == (90,)


def test_a_slow_engine_fails_the_gate() -> None:
    assert measured(0.9).worst_ratio == pytest.approx(0.9)
    measured(0.4).require(0.5)
    with pytest.raises(ExportError, match=r"0\.900 at batch 4 on GPU 9"):
        measured(0.9).require(0.6)


def test_engine_figures_are_reported() -> None:
    text = io.StringIO()
    print_benchmark(Console(file=text, width=100), measured(0.25))
    assert "tensorrt 11, GPU 9, launched as CUDA graphs" in text.getvalue()
    assert "FP16" in text.getvalue()
    assert "0.250" in text.getvalue()
    document = json.loads(json.dumps(measured(0.25).to_json()))
    assert document["engine"]["batches"][0]["ratio"] == pytest.approx(0.25)
    assert document["engine"]["batches"][0]["images_per_second"] == pytest.approx(1600)


@pytest.mark.skipif(torch.cuda.is_available(), reason="an engine file of no engine needs no GPU")
def test_an_engine_without_a_gpu_is_named(bundle: Bundle, tmp_path: Path) -> None:
    command = ["bench", str(bundle.path), "--batch", "1", "--runs", "10", "--quiet"]
    silent = CliRunner().invoke(app, command)
    assert silent.exit_code == 0, silent.output
    assert "engine" not in silent.output
    engine = default_engine_path(bundle, "tensorrt-rtx")
    engine.write_bytes(b"engine")
    named = CliRunner().invoke(app, command)
    engine.unlink()
    assert named.exit_code == 0, named.output
    assert "engine not measured: no GPU that CUDA sees" in named.output
