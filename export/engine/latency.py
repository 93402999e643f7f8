"""How fast a bundle's engine is on this machine's GPU, beside an FP16 engine of the float twin.

Times lie between two CUDA events around so many launches that they fill ``LEAST_MS``, divided by
their number: no copy to or from the host, and the gap before the first launch hardly counts. The
engines take turns A B A B. Both are launched as CUDA graphs or, where one cannot be, neither is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from lrq_deploy.errors import ExportError
from lrq_deploy.export.bundle.folder import Bundle
from lrq_deploy.export.bundle.manifest import FileRecord
from lrq_deploy.export.engine.build import build_engine, load_builder
from lrq_deploy.export.engine.file import EngineRecord
from lrq_deploy.export.engine.options import BatchProfile, EngineOptions
from lrq_deploy.export.engine.run import (
    EngineSession,
    compute_capability,
    gpu_memory,
    load_engine,
    open_engine,
)
from lrq_deploy.export.float_twin import float_twin
from lrq_deploy.export.measures.latency import (
    BatchLatency,
    BenchmarkOptions,
    Distribution,
    EngineBenchmark,
)
from lrq_deploy.progress import ProgressCallback, StageProgress, silent
from lrq_deploy.student.frozen import QuantizedModel

__all__ = ["WARMUP", "half_graph", "half_options", "measure_engine", "timed_runs"]

WARMUP = 10
"""Launches of each engine and batch size before those that are timed."""
LEAST_RUNS = 200
LEAST_MS = 1.0
"""Of what is timed at once: starting one launch takes the CPU as long as a small network runs."""
_MOST_LAUNCHES = 2**12

_Launch = Callable[[], None]


@dataclass(frozen=True)
class _Source:
    """An engine that is not loaded yet."""

    trt: Any
    data: bytes
    record: EngineRecord

    def first_run(self, size: int) -> EngineSession:
        """Load it and run one batch, in which memory and kernels are chosen."""
        session = load_engine(self.trt, self.data, self.record, timed=True)
        session.logits(torch.zeros(size, *self.record.input_shape))
        return session


def measure_engine(
    bundle: Bundle,
    options: BenchmarkOptions,
    progress: ProgressCallback = silent,
    file: Path | None = None,
) -> EngineBenchmark:
    """Measure an engine of a bundle; the FP16 engine is built here and thrown away.

    Batch sizes that the engine is not for are left out; its usual one is measured if none is left.

    Args:
        bundle: what the engine was built from.
        options: how; at least ``LEAST_RUNS`` runs and always ``WARMUP`` are made of an engine.
        progress: receives one event per batch size.
        file: the engine; None takes the first beside the bundle that runs here.

    Raises:
        EngineUnavailableError: no engine of the bundle runs here.
        ExportError: the FP16 engine cannot be built, or an engine fails.
    """
    ours, gpu = _opened(bundle, file)
    half = _half_engine(bundle.model(), ours.record)
    smallest, usual, largest = ours.record.batch
    wanted = [size for size in options.batch_sizes if smallest <= size <= largest]
    sizes = wanted or [usual]
    report = StageProgress(progress, "bench engine", 1 + len(sizes))
    loaded = [_loaded(source, max(sizes)) for source in (half, ours)]
    sessions = [session for session, _ in loaded]
    float_memory, quantized_memory = (memory for _, memory in loaded)
    report.advance(message="FP16 engine built")
    batches, captured = [], True
    for size in sizes:
        launches, graphs = _launches(sessions, size)
        captured = captured and graphs
        batches.append(_interleaved(launches, size, timed_runs(options)))
        report.advance(message=f"engine, batch {size}: ratio {batches[-1].ratio:.3f}")
    kind = ours.record.kind
    return EngineBenchmark(
        gpu=gpu,
        runtime=f"{kind} {ours.record.versions[kind]}",
        cuda_graph=captured,
        batches=tuple(batches),
        float_bytes=len(half.data),
        quantized_bytes=len(ours.data),
        float_memory_bytes=float_memory,
        quantized_memory_bytes=quantized_memory,
    )


def timed_runs(options: BenchmarkOptions) -> int:
    """Timed runs of each engine and batch size."""
    return max(options.runs, LEAST_RUNS)


def _opened(bundle: Bundle, file: Path | None) -> tuple[_Source, str]:
    """The engine that runs here, not loaded, and the GPU with what is to be known of it."""
    session = open_engine(bundle, file)
    name, remark = torch.cuda.get_device_name(), session.remark
    gpu = f"{name} (engine {remark})" if remark else name
    return _Source(session.trt, session.data, session.record), gpu


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
    # TensorRT builds for the GPU of the machine and takes no other.
    sms = () if record.kind == "tensorrt" else (capability,)
    return EngineOptions(record.kind, sms, BatchProfile(*record.batch), record.workspace_mib)


def _half_engine(model: QuantizedModel, record: EngineRecord) -> _Source:
    options = half_options(record, compute_capability())
    trt = load_builder(options.kind, None)
    built = build_engine(trt, half_graph(model), record.input_shape, options)
    return _Source(trt, built.data, replace(record, engine=FileRecord.of(built.data)))


def _loaded(source: _Source, size: int) -> tuple[EngineSession, int]:
    """An engine after its first run, and the memory of the GPU that both took."""
    # What the libraries load once for all engines is in nobody's figure.
    source.first_run(size)
    free = _free_memory()
    session = source.first_run(size)
    return session, max(free - _free_memory(), 0)


def _free_memory() -> int:
    torch.cuda.synchronize()
    # Images and logits of an earlier run would otherwise be there already.
    torch.cuda.empty_cache()
    free: int = torch.cuda.mem_get_info()[0]
    return free


def _launches(sessions: Sequence[EngineSession], size: int) -> tuple[list[_Launch], bool]:
    """One run of a batch of each engine, and whether all of them are CUDA graphs."""
    kept = [_first_run(session, size) for session in sessions]
    enqueued = [_enqueued(*pair) for pair in zip(sessions, kept, strict=True)]
    if all(session.cuda_graph for session in sessions):
        return enqueued, True
    replays = []
    for pair in zip(sessions, kept, strict=True):
        replay = _captured(*pair)
        if replay is None:
            return enqueued, False
        replays.append(replay)
    return replays, True


def _first_run(session: EngineSession, size: int) -> tuple[Tensor, Tensor]:
    """What a run reads and writes; kernels of a shape are chosen in its first run."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, *session.record.input_shape, generator=generator)
    with gpu_memory(size):
        on_gpu = images.cuda()
        logits = session.bind(on_gpu)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    session.enqueue(stream)
    stream.synchronize()
    return on_gpu, logits


def _enqueued(session: EngineSession, tensors: object) -> _Launch:
    """A run of what is bound, whose tensors it keeps."""

    def enqueue(kept: object = tensors) -> None:
        session.enqueue(torch.cuda.current_stream())

    return enqueue


def _captured(session: EngineSession, tensors: object) -> _Launch | None:
    """The same as a CUDA graph; None where the engine cannot be captured."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    try:
        # Other threads, such as those of TensorRT, may go on calling CUDA.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            session.enqueue(stream)
    except (RuntimeError, ExportError):
        torch.cuda.synchronize()
        return None

    def replay(kept: object = tensors) -> None:
        graph.replay()

    return replay


def _interleaved(launches: Sequence[_Launch], size: int, runs: int) -> BatchLatency:
    stream = torch.cuda.Stream()
    taken: list[list[float]] = [[] for _ in launches]
    with torch.cuda.stream(stream):
        counts = [_count(launch, stream) for launch in launches]
        for _ in range(runs):
            for launch, count, seconds in zip(launches, counts, taken, strict=True):
                seconds.append(_elapsed_ms(launch, count, stream) / count / 1000)
    return BatchLatency(size, *(Distribution.of(seconds) for seconds in taken))


def _count(launch: _Launch, stream: torch.cuda.Stream) -> int:
    """How many launches fill ``LEAST_MS``, asked after the warm-up."""
    _elapsed_ms(launch, WARMUP, stream)
    count = 1
    while count < _MOST_LAUNCHES and _elapsed_ms(launch, count, stream) < LEAST_MS:
        count *= 2
    return count


def _elapsed_ms(launch: _Launch, count: int, stream: torch.cuda.Stream) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record(stream)
    for _ in range(count):
        launch()
    end.record(stream)
    stream.synchronize()
    elapsed: float = start.elapsed_time(end)
    return elapsed
