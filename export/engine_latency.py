"""How fast a bundle's engine is on this machine's GPU, beside an FP16 engine of the float twin.

Times are those of the GPU, between two CUDA events around a launch: no copy to or from the host.
Launches alternate A B A B. Each engine is launched as a CUDA graph where it can be captured, so
that the time of the CPU between kernels does not count.
"""

from collections.abc import Callable
from dataclasses import replace

import onnx
import torch

from lrq_deploy.errors import ExportError
from lrq_deploy.export.bundle import Bundle
from lrq_deploy.export.engine_build import build_engine, load_builder
from lrq_deploy.export.engine_file import EngineRecord
from lrq_deploy.export.engine_options import BatchProfile, EngineKind, EngineOptions
from lrq_deploy.export.engine_run import (
    EngineSession,
    compute_capability,
    load_engine,
    open_engine,
)
from lrq_deploy.export.float_twin import float_twin
from lrq_deploy.export.latency import (
    BatchLatency,
    BenchmarkOptions,
    Distribution,
    EngineBenchmark,
)
from lrq_deploy.export.manifest import FileRecord
from lrq_deploy.progress import ProgressCallback, StageProgress, silent
from lrq_deploy.student.frozen import QuantizedModel

__all__ = ["half_graph", "half_options", "measure_engine"]

_Launch = Callable[[], None]


def measure_engine(
    bundle: Bundle, options: BenchmarkOptions, progress: ProgressCallback = silent
) -> EngineBenchmark:
    """Measure the engine beside a bundle; the FP16 engine is built here and thrown away.

    Batch sizes that the engine is not for are left out; its usual one is measured if none is left.

    Raises:
        EngineUnavailableError: no engine of the bundle runs here.
        ExportError: the FP16 engine cannot be built, or an engine fails.
    """
    # Without a GPU, open_engine says what is missing.
    free = [_free_memory() if torch.cuda.is_available() else 0]
    ours = open_engine(bundle)
    smallest, usual, largest = ours.record.batch
    wanted = [size for size in options.batch_sizes if smallest <= size <= largest]
    sizes = wanted or [usual]
    report = StageProgress(progress, "bench engine", 1 + len(sizes))
    ours.logits(torch.zeros(max(sizes), *ours.record.input_shape))
    free.append(_free_memory())
    half = _half_engine(bundle.model(), ours.record)
    free.append(_free_memory())
    half.logits(torch.zeros(max(sizes), *ours.record.input_shape))
    free.append(_free_memory())
    report.advance(message="FP16 engine built")
    batches, captured = [], True
    for size in sizes:
        launches = [_launch(session, size) for session in (half, ours)]
        captured = captured and all(graph for _, graph in launches)
        batches.append(_interleaved([launch for launch, _ in launches], size, options))
        report.advance(message=f"engine, batch {size}: ratio {batches[-1].ratio:.3f}")
    kind = ours.record.kind
    return EngineBenchmark(
        gpu=torch.cuda.get_device_name(),
        runtime=f"{kind} {ours.record.versions[kind]}",
        cuda_graph=captured,
        batches=tuple(batches),
        float_bytes=half.record.engine.size_bytes,
        quantized_bytes=ours.record.engine.size_bytes,
        float_memory_bytes=max(free[2] - free[3], 0),
        quantized_memory_bytes=max(free[0] - free[1], 0),
    )


def half_graph(model: QuantizedModel) -> bytes:
    """The float twin of a student in FP16, with float32 input and logits."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half: onnx.ModelProto = convert_float_to_float16(float_twin(model), keep_io_types=True)
    data: bytes = half.SerializeToString(deterministic=True)
    return data


def half_options(record: EngineRecord, capability: int) -> EngineOptions:
    """Options of an engine that takes what the recorded one takes, for one GPU.

    Args:
        record: of the engine to compare with.
        capability: compute capability of the GPU, times ten.
    """
    kind: EngineKind = "tensorrt" if record.kind == "tensorrt" else "tensorrt-rtx"
    # TensorRT builds for the GPU of the machine and takes no other.
    sms = () if kind == "tensorrt" else (capability,)
    return EngineOptions(kind, sms, BatchProfile(*record.batch), record.workspace_mib)


def _half_engine(model: QuantizedModel, record: EngineRecord) -> EngineSession:
    options = half_options(record, compute_capability())
    trt = load_builder(options.kind, "trtexec --fp16")
    built = build_engine(trt, half_graph(model), record.input_shape, options)
    return load_engine(trt, built.data, replace(record, engine=FileRecord.of(built.data)))


def _free_memory() -> int:
    torch.cuda.synchronize()
    free: int = torch.cuda.mem_get_info()[0]
    return free


def _launch(session: EngineSession, size: int) -> tuple[_Launch, bool]:
    """One run of a batch on the current stream, and whether it is a CUDA graph."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, *session.record.input_shape, generator=generator).cuda()
    logits = session.bind(images)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    # Memory and kernels of a shape are chosen in its first run, which cannot be captured.
    session.enqueue(stream)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            session.enqueue(stream)
    except (RuntimeError, ExportError):
        torch.cuda.synchronize()

        def enqueue(kept: object = (images, logits)) -> None:
            session.enqueue(torch.cuda.current_stream())

        return enqueue, False

    def replay(kept: object = (images, logits)) -> None:
        graph.replay()

    return replay, True


def _interleaved(launches: list[_Launch], size: int, options: BenchmarkOptions) -> BatchLatency:
    stream = torch.cuda.Stream()
    taken: list[list[float]] = [[] for _ in launches]
    with torch.cuda.stream(stream):
        for launch in launches:
            for _ in range(options.warmup):
                launch()
        for _ in range(options.runs):
            for launch, seconds in zip(launches, taken, strict=True):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record(stream)
                launch()
                end.record(stream)
                stream.synchronize()
                seconds.append(start.elapsed_time(end) / 1000)
    return BatchLatency(size, *(Distribution.of(seconds) for seconds in taken))
