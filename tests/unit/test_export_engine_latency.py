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
from support.engine_files import write_engine_of
from support.fake_tensorrt import GAP_MS, LIBRARY_BYTES, FakeGpu, install
from support.frozen_graphs import residual_student
from typer.testing import CliRunner

from lrq_deploy.cli.job import benchmark
from lrq_deploy.cli.main import app
from lrq_deploy.cli.reports.bench import print_benchmark
from lrq_deploy.errors import BoundError, BundleError, ExportError
from lrq_deploy.export.bundle.folder import Bundle
from lrq_deploy.export.bundle.manifest import FileRecord
from lrq_deploy.export.engine import latency as engine_latency
from lrq_deploy.export.engine.build import BuiltEngine
from lrq_deploy.export.engine.file import EngineRecord
from lrq_deploy.export.engine.from_bundle import default_engine_path
from lrq_deploy.export.engine.latency import (
    LEAST_MS,
    LEAST_RUNS,
    WARMUP,
    half_graph,
    half_options,
    measure_engine,
    timed_runs,
)
from lrq_deploy.export.engine.options import EngineKind, EngineOptions
from lrq_deploy.export.measures.latency import (
    BatchLatency,
    Benchmark,
    BenchmarkOptions,
    Distribution,
    EngineBenchmark,
)

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


OURS, HALF = b"ours", b"half"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """Our engine takes 0.02 ms, the FP16 engine 0.04 ms; each holds other memory."""
    found = FakeGpu(run_ms={OURS: 0.02, HALF: 0.04}, held_bytes={OURS: 100, HALF: 300})
    install(monkeypatch, found)

    def built(*about: object) -> BuiltEngine:
        return BuiltEngine(HALF, (), "1")

    monkeypatch.setattr(engine_latency, "half_graph", lambda model: b"")
    monkeypatch.setattr(engine_latency, "build_engine", built)
    return found


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured on the CPU, at once."""
    found = replace(measured(1.0), engine=None)
    monkeypatch.setattr(benchmark, "_graphs_measured", lambda *about: found)


@pytest.fixture
def engine(bundle: Bundle, tmp_path: Path) -> Path:
    path = tmp_path / "net.engine"
    write_engine_of(bundle, path, "tensorrt-rtx", OURS)
    return path


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
    options = half_options(RECORD, 89)
    assert (options.kind, options.sms) == ("tensorrt", ())
    assert (options.batch.sizes(), options.workspace_mib) == ((2, 4, 16), 64)
    assert half_options(replace(RECORD, kind="tensorrt-rtx"), 89).sms == (89,)
    assert EngineOptions("tensorrt-rtx", (89,)).compute_capabilities == (89,)


def test_a_slow_engine_fails_the_gate() -> None:
    assert measured(0.9).worst_ratio == pytest.approx(0.9)
    measured(0.4).require(0.5)
    with pytest.raises(ExportError, match=r"0\.900 at batch 4 on GPU 9"):
        measured(0.9).require(0.6)


def test_engine_figures_are_reported() -> None:
    text = io.StringIO()
    print_benchmark(Console(file=text, width=100), measured(0.25))
    launched = "tensorrt 11, GPU 9, both engines launched as CUDA graphs"
    assert launched in text.getvalue()
    assert "200 interleaved runs" in text.getvalue().replace("\n", " ")
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
    assert "engine not measured: no GPU that CUDA sees; run this on" in named.output


def test_memory_is_that_of_each_engine_alone(bundle: Bundle, gpu: FakeGpu, engine: Path) -> None:
    found = measure_engine(bundle, BenchmarkOptions(batch_sizes=(1,)), file=engine)
    assert (found.float_memory_bytes, found.quantized_memory_bytes) == (300, 100)
    assert (found.float_bytes, found.quantized_bytes) == (len(HALF), len(OURS))
    assert gpu.used_bytes == LIBRARY_BYTES


@pytest.mark.parametrize("kind", ["tensorrt", "tensorrt-rtx"])
def test_the_gap_in_front_of_a_launch_hardly_counts(
    bundle: Bundle, gpu: FakeGpu, engine: Path, kind: EngineKind
) -> None:
    write_engine_of(bundle, engine, kind, OURS)
    found = measure_engine(bundle, BenchmarkOptions(batch_sizes=(1, 8, 99), runs=10), file=engine)
    assert [batch.batch_size for batch in found.batches] == [1, 8]
    for batch in found.batches:
        for times, taken in ((batch.quantized, 0.02), (batch.float_graph, 0.04)):
            assert taken <= times.p50_ms <= taken * (1 + 1.01 * GAP_MS / LEAST_MS)
        assert batch.ratio == pytest.approx(0.5, rel=0.01)
    # Each sample of both engines and batch sizes lasts LEAST_MS.
    samples = 2 * 2 * LEAST_RUNS
    assert gpu.now_ms > samples * LEAST_MS
    assert found.cuda_graph


def test_engines_are_run_more_often_than_graphs_on_a_cpu() -> None:
    assert (WARMUP, timed_runs(BenchmarkOptions())) == (10, 200)
    assert timed_runs(BenchmarkOptions(runs=1000)) == 1000


def test_tensorrt_for_rtx_captures_its_own_graphs(
    bundle: Bundle, gpu: FakeGpu, engine: Path
) -> None:
    found = measure_engine(bundle, BenchmarkOptions(batch_sizes=(1,)), file=engine)
    assert found.cuda_graph
    assert gpu.captures == []
    assert {config.cuda_graph_strategy for config in gpu.configs[1:]} == {"whole"}


@pytest.mark.parametrize("refused", [set(), {"capture"}])
def test_engines_of_tensorrt_are_captured_or_none_is(
    bundle: Bundle, gpu: FakeGpu, engine: Path, refused: set[str]
) -> None:
    write_engine_of(bundle, engine, "tensorrt", OURS)
    gpu.refused = refused
    found = measure_engine(bundle, BenchmarkOptions(batch_sizes=(1,)), file=engine)
    assert found.cuda_graph == (not refused)
    assert gpu.captures[0] == {"capture_error_mode": "thread_local"}
    assert found.batches[0].ratio == pytest.approx(0.5, rel=0.01)


def test_a_gpu_that_did_not_build_the_engine_is_told(
    bundle: Bundle, gpu: FakeGpu, engine: Path
) -> None:
    write_engine_of(bundle, engine, "tensorrt", OURS, gpu="GPU 8")
    found = measure_engine(bundle, BenchmarkOptions(batch_sizes=(1,)), file=engine)
    assert found.gpu.startswith("GPU 9 (engine built on GPU 8")


@pytest.mark.usefixtures("gpu", "on_cpu")
def test_a_named_engine_is_measured(bundle: Bundle, engine: Path) -> None:
    command = ["bench", str(bundle.path), "--batch", "1", "--runs", "10", "--quiet", "--json"]
    command += ["--engine", str(engine), "--require-engine", "--max-latency-ratio", "1000"]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["engine"]["quantized_bytes"] == len(OURS)
    assert (document["engine"]["runs"], document["engine"]["warmup"]) == (200, 10)


def test_an_engine_that_is_none_of_the_bundle_is_refused_at_once(
    bundle: Bundle, engine: Path
) -> None:
    command = ["bench", str(bundle.path), "--engine"]
    with pytest.raises(BundleError, match="must be readable"):
        CliRunner().invoke(app, [*command, f"{engine}.none"], catch_exceptions=False)
    write_engine_of(bundle, engine, "tensorrt-rtx", OURS, graph_sha256="0")
    with pytest.raises(BundleError, match=r"the bundle's model\.tensorrt\.onnx"):
        CliRunner().invoke(app, [*command, str(engine)], catch_exceptions=False)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.skipif(torch.cuda.is_available(), reason="an engine file of no engine needs no GPU")
def test_a_required_engine_that_is_not_measured_fails(bundle: Bundle, engine: Path) -> None:
    command = ["bench", str(bundle.path), "--batch", "1", "--runs", "10", "--quiet"]
    command += ["--max-latency-ratio", "1000"]
    named = ["--engine", str(engine)]
    assert CliRunner().invoke(app, [*command, *named]).exit_code == 0
    for added, reason in (([], "none beside .*; make one"), (named, "no GPU that CUDA sees; run")):
        with pytest.raises(BoundError, match=f"--require-engine .*{reason}"):
            CliRunner().invoke(app, [*command, *added, "--require-engine"], catch_exceptions=False)
