"""How fast a quantized graph is against its float one, in ONNX Runtime, on this machine, now.

Runs alternate A B A B, so that both graphs meet the same clock frequency and the same
neighbours; what counts is the ratio.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lrq_deploy.errors import BoundError, ExportError, OptionError
from lrq_deploy.export.runtime.peak_memory import peak_memory_bytes
from lrq_deploy.export.runtime.run import cpu_name, distribution, interleaved
from lrq_deploy.export.runtime.session import Session, open_session
from lrq_deploy.progress import ProgressCallback, StageProgress, silent
from lrq_deploy.wording import printable

__all__ = [
    "BatchLatency",
    "Benchmark",
    "BenchmarkOptions",
    "DeviceFacts",
    "Distribution",
    "EngineBenchmark",
    "measure_latency",
]


@dataclass(frozen=True)
class BenchmarkOptions:
    """How to measure.

    Attributes:
        threads: of one run, 1 or more.
        batch_sizes: images per run, each 1 or more.
        runs: timed runs of each graph and batch size, 10 or more.
        warmup: runs before them that are not timed, 1 or more.
        memory: also measure the memory of each graph, in a process of its own.
    """

    threads: int = 1
    batch_sizes: tuple[int, ...] = (1, 8)
    runs: int = 50
    warmup: int = 5
    memory: bool = True

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise OptionError("--threads must be 1 or more", str(self.threads), "pass --threads 1")
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            received = ",".join(map(str, self.batch_sizes)) or "none"
            raise OptionError("--batch must hold sizes of 1 or more", received, "pass --batch 1,8")
        if self.runs < 10:
            raise OptionError("--runs must be 10 or more", str(self.runs), "pass --runs 50")
        if self.warmup < 1:
            raise OptionError("warm-up runs must be 1 or more", str(self.warmup), "use 5")


@dataclass(frozen=True)
class Distribution:
    """Latency of one graph at one batch size, in milliseconds per run."""

    p50_ms: float
    p90_ms: float
    p99_ms: float

    @staticmethod
    def of(seconds: Sequence[float]) -> "Distribution":
        """Percentiles of measured seconds, with linear interpolation."""
        return Distribution(**distribution(seconds))


@dataclass(frozen=True)
class BatchLatency:
    """All graphs at one batch size.

    Attributes:
        batch_size: images per run.
        float_graph: of the float graph.
        quantized: of the quantized graph.
        static: of what ``quantize_static`` made of the float graph; None if there is none.
    """

    batch_size: int
    float_graph: Distribution
    quantized: Distribution
    static: Distribution | None = None

    @property
    def ratio(self) -> float:
        """Median of the quantized graph over that of the float one; below 1 is faster."""
        return self.quantized.p50_ms / self.float_graph.p50_ms

    @property
    def static_ratio(self) -> float | None:
        """Median of the quantized graph over that of ``quantize_static``."""
        return None if self.static is None else self.quantized.p50_ms / self.static.p50_ms

    def graphs(self) -> dict[str, Distribution]:
        """What was measured, by name."""
        found = {"float": self.float_graph, "quantized": self.quantized}
        return found if self.static is None else {**found, "static": self.static}

    @property
    def images_per_second(self) -> float:
        """Throughput of the quantized graph at its median."""
        return 1000 * self.batch_size / self.quantized.p50_ms


@dataclass(frozen=True)
class EngineBenchmark:
    """An engine beside an FP16 engine of the float twin, on the GPU alone.

    Attributes:
        gpu: its name; with the GPU that built the engine where that is another.
        runtime: name and version.
        cuda_graph: whether launches of both were CUDA graphs.
        batches: one entry per batch size; ``float_graph`` is the FP16 engine.
        float_bytes, quantized_bytes: sizes of the engine files.
        float_memory_bytes, quantized_memory_bytes: memory of the GPU that loading the engine and
            a first run took.
    """

    gpu: str
    runtime: str
    cuda_graph: bool
    batches: tuple[BatchLatency, ...]
    float_bytes: int
    quantized_bytes: int
    float_memory_bytes: int
    quantized_memory_bytes: int


@dataclass(frozen=True)
class DeviceFacts:
    """A machine without lrq-deploy, as ``run.py`` tells of it.

    Attributes:
        cpu: type of the processor, or of the board.
        machine: instruction set, for instance ``aarch64``.
        cores: that the system counts.
        system, python, numpy, onnxruntime: versions.
        providers: of ONNX Runtime, those that ran.
    """

    cpu: str
    machine: str
    cores: int
    system: str
    python: str
    numpy: str
    onnxruntime: str
    providers: tuple[str, ...]

    def describe(self) -> str:
        """One line for people; what a foreign file holds steers no terminal."""
        return printable(
            f"{self.cpu} ({self.machine}, {self.cores} cores), onnxruntime {self.onnxruntime}, "
            f"numpy {self.numpy}, Python {self.python}, {self.system}",
            400,
        )


@dataclass(frozen=True)
class Benchmark:
    """Everything measured.

    Attributes:
        options: how.
        cpu: type of the processor.
        runtime: name and version.
        batches: one entry per batch size.
        float_bytes, quantized_bytes, static_bytes: sizes of the files.
        float_memory_bytes, quantized_memory_bytes, static_memory_bytes: growth of a fresh process
            that loads and runs the graph at the largest batch size; None where the system does
            not tell, or it was not asked for.
        images: real images behind the next two figures.
        agreement, static_agreement: share of images with the top-1 of the float graph, 0..1;
            None without real images.
        images_remarks: what the user should know of those images, a sentence each.
        engine: what was measured of the engine; None where none was built, or it cannot run here.
        engine_remark: why none was measured where one was built, named or required, with the
            remedy; empty otherwise.
        device: the machine, where it was another than this one.
    """

    options: BenchmarkOptions
    cpu: str
    runtime: str
    batches: tuple[BatchLatency, ...]
    float_bytes: int
    quantized_bytes: int
    float_memory_bytes: int | None
    quantized_memory_bytes: int | None
    static_bytes: int | None = None
    static_memory_bytes: int | None = None
    images: int = 0
    agreement: float | None = None
    static_agreement: float | None = None
    images_remarks: tuple[str, ...] = ()
    engine: EngineBenchmark | None = None
    engine_remark: str = ""
    device: DeviceFacts | None = None

    @property
    def worst_ratio(self) -> float:
        """Largest ratio of all batch sizes, on the CPU and on the GPU."""
        return max(batch.ratio for batch in (*self.batches, *self._on_gpu))

    @property
    def _on_gpu(self) -> tuple[BatchLatency, ...]:
        return () if self.engine is None else self.engine.batches

    def to_json(self) -> dict[str, Any]:
        """Plain values with the ratios."""
        document = asdict(self)
        entries = [*document["batches"]]
        if self.engine is not None:
            entries += document["engine"]["batches"]
        for entry, batch in zip(entries, (*self.batches, *self._on_gpu), strict=True):
            entry["ratio"] = batch.ratio
            entry["static_ratio"] = batch.static_ratio
            entry["images_per_second"] = batch.images_per_second
        return {**document, "worst_ratio": self.worst_ratio}

    def require(self, max_ratio: float) -> None:
        """Check the ratio of every batch size.

        Raises:
            BoundError: one is larger than ``max_ratio``.
        """
        places = {f"{self.cpu}, --threads {self.options.threads}": self.batches}
        if self.engine is not None:
            places[self.engine.gpu] = self.engine.batches
        slow = [
            f"{batch.ratio:.3f} at batch {batch.batch_size} on {place}"
            for place, batches in places.items()
            for batch in batches
            if batch.ratio > max_ratio
        ]
        if slow:
            raise BoundError(
                f"the quantized graph must take at most {max_ratio:g} of the float graph's time",
                ", ".join(slow),
                "measure on the device, quiet and with more --runs; follow the remedies of "
                "lrq-deploy validate where layers run in float, else allow a larger ratio",
            )


def measure_latency(
    float_model: Path,
    quantized_model: Path,
    options: BenchmarkOptions,
    progress: ProgressCallback = silent,
    static_model: Path | None = None,
) -> Benchmark:
    """Measure two or three graphs against each other.

    Args:
        float_model: file of the float graph, one input float32 ``[batch, C, H, W]`` and one output
            of any names.
        quantized_model: file of the quantized graph.
        options: threads, batch sizes, runs.
        progress: receives one event per batch size and one per memory measurement.
        static_model: file of what ``quantize_static`` made of the float graph.

    Raises:
        ExportError: ONNX Runtime does not accept a graph, their inputs differ, or one does not
            run at a batch size.
    """
    import onnxruntime

    paths = [float_model, quantized_model, *([] if static_model is None else [static_model])]
    graphs = [open_session(path, options.threads) for path in paths]
    _check_inputs(graphs)
    steps = len(options.batch_sizes) + len(paths) * options.memory
    report = StageProgress(progress, "bench", steps)
    batches = []
    for size in options.batch_sizes:
        batches.append(_interleaved(graphs, size, options))
        report.advance(message=f"batch {size}: ratio {batches[-1].ratio:.3f}")
    del graphs
    memory: list[int | None] = [None] * 3
    for index, path in enumerate(paths if options.memory else ()):
        memory[index] = peak_memory_bytes(path, max(options.batch_sizes), options.threads)
        report.advance()
    return Benchmark(
        options=options,
        cpu=cpu_name(),
        runtime=f"onnxruntime {onnxruntime.__version__}",
        batches=tuple(batches),
        float_bytes=float_model.stat().st_size,
        quantized_bytes=quantized_model.stat().st_size,
        float_memory_bytes=memory[0],
        quantized_memory_bytes=memory[1],
        static_bytes=None if static_model is None else static_model.stat().st_size,
        static_memory_bytes=memory[2],
    )


def _check_inputs(graphs: Sequence[Session]) -> None:
    """Names are free: exporters call an image and its logits as they like."""
    taken = [[(x.type, x.shape[1:]) for x in g.runtime.get_inputs()] for g in graphs]
    given = [_logits(graph) for graph in graphs]
    if len(taken[0]) != 1 or any(x != taken[0] for x in taken) or not _agree(given):
        first, second = (_described(graph) for graph in graphs[:2])
        raise ExportError(
            "both graphs must take one image of the same [batch, C, H, W] and give its logits as "
            "the only output, or as one called 'logits'",
            f"{first} and {second}",
            "pass the float graph of the same network with the same sides, or leave --float out",
        )


def _logits(graph: Session) -> list[Any] | None:
    """Type and sizes behind the batch; None where outputs do not tell which it is."""
    outputs = graph.runtime.get_outputs()
    named = [x for x in outputs if x.name == "logits"] or outputs
    return [named[0].type, *named[0].shape[1:]] if len(named) == 1 else None


def _agree(given: Sequence[list[Any] | None]) -> bool:
    """Whether all are told and no two stated sizes differ; a graph may leave a size open."""
    told = [logits for logits in given if logits is not None]
    if len(told) < len(given) or len({len(logits) for logits in told}) > 1:
        return False
    # A type is text, and so is the name of an open size.
    kinds, *sizes = zip(*told, strict=True)
    stated = [{size for size in column if isinstance(size, int)} for column in sizes]
    return len(set(kinds)) == 1 and all(len(column) < 2 for column in stated)


def _described(graph: Session) -> str:
    sides = [
        ", ".join(f"{x.name} {x.type} {x.shape}" for x in values)
        for values in (graph.runtime.get_inputs(), graph.runtime.get_outputs())
    ]
    return " -> ".join(sides)


def _interleaved(graphs: Sequence[Session], size: int, options: BenchmarkOptions) -> BatchLatency:
    shape = graphs[0].runtime.get_inputs()[0].shape[1:]
    images = torch.randn(size, *shape, generator=torch.Generator().manual_seed(0)).numpy()
    calls = [
        partial(_run, graph, [logits], {image: images})
        for graph, (image, logits) in ((graph, graph.names()) for graph in graphs)
    ]
    taken = interleaved(calls, options.warmup, options.runs)
    return BatchLatency(size, *(Distribution.of(seconds) for seconds in taken))


def _run(
    graph: Session, wanted: list[str], images: "dict[str, np.ndarray[Any, np.dtype[np.float32]]]"
) -> None:
    """One run without any conversion.

    Raises:
        ExportError: the graph does not take a batch of this size.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    try:
        graph.runtime.run(wanted, images)
    except (state.InvalidArgument, state.RuntimeException, state.Fail) as error:
        raise ExportError(
            f"the graph must run at batch size {len(next(iter(images.values())))}",
            str(error).strip().splitlines()[0],
            "pass a float graph with a dynamic batch, or another --batch",
        ) from error
