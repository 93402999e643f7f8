"""A bundle's network measured against the float one, here or, as it tells, on a device."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrq_deploy.cli.flags.engine_parameters import check_engine_file
from lrq_deploy.errors import OptionError
from lrq_deploy.progress import ProgressCallback, silent
from lrq_deploy.stored_schema import document_bytes

if TYPE_CHECKING:
    from lrq_deploy.export.bundle.folder import Bundle
    from lrq_deploy.export.measures.latency import Benchmark, BenchmarkOptions, EngineBenchmark
    from lrq_deploy.images import ImageSet
    from lrq_deploy.student.frozen import QuantizedModel

__all__ = [
    "BENCHMARK_SCHEMA",
    "JSON_NAME",
    "PICTURE_NAME",
    "bench_bundle",
    "bench_document",
    "bench_files",
    "bench_of_device",
]

BENCHMARK_SCHEMA = 1
JSON_NAME = "bench.json"
PICTURE_NAME = "latency.png"
AGREEMENT_IMAGES = 256
"""Real images at most on which the answers are compared."""


def bench_bundle(
    path: Path,
    options: "BenchmarkOptions",
    float_model: Path | None = None,
    progress: ProgressCallback = silent,
    static_images: Path | None = None,
    engine: Path | None = None,
    require_engine: bool = False,
) -> "Benchmark":
    """Measure a bundle's ``model.onnx`` against its float twin or a given float graph.

    An engine is measured too where a GPU runs it.

    Args:
        path: the bundle.
        options: how to measure.
        float_model: float graph to compare with; the student without its quantizers, if None.
        progress: receives the events.
        static_images: real images, of which ``quantize_static`` is calibrated and the answers
            are compared; None leaves that graph out.
        engine: engine file; None takes those that ``build`` has put beside the bundle.
        require_engine: whether to say why none was measured even where none was built.

    Raises:
        BundleError: not a bundle, changed, of another schema, or with a graph that is not its
            own; the float graph is none; or the named engine is not of it.
        OptionError: a batch holds too many images.
        ImageError: ``static_images`` is no folder of images.
        ExportError: ONNX Runtime does not accept a graph, or the graphs do not compare.
    """
    from lrq_deploy.export.bundle.folder import load_bundle
    from lrq_deploy.export.bundle.own_graph import check_float_graph
    from lrq_deploy.export.engine.options import check_batch

    bundle = load_bundle(path)
    check_batch(max(options.batch_sizes), bundle.manifest.input_shape)
    if float_model is not None:
        check_float_graph(float_model)
    check_engine_file(engine, bundle)
    found = _graphs_measured(bundle, options, float_model, progress, static_images)
    asked = engine is not None or require_engine
    on_gpu, remark = _engine_measured(bundle, options, progress, engine, asked)
    return replace(found, engine=on_gpu, engine_remark=remark)


def _graphs_measured(
    bundle: "Bundle",
    options: "BenchmarkOptions",
    float_model: Path | None,
    progress: ProgressCallback,
    static_images: Path | None,
) -> "Benchmark":
    """The graphs in ONNX Runtime."""
    import tempfile

    from lrq_deploy.export.bundle.own_graph import own_graph
    from lrq_deploy.export.derived.static_baseline import agreements, static_baseline
    from lrq_deploy.export.dialects.onnxruntime import OnnxRuntimeTarget
    from lrq_deploy.export.float_twin import float_twin
    from lrq_deploy.export.measures.latency import measure_latency
    from lrq_deploy.export.onnx_graph import save_onnx

    graph, model = own_graph(bundle, OnnxRuntimeTarget()), bundle.model()
    images = None if static_images is None else _images(static_images, model)
    with tempfile.TemporaryDirectory() as folder:
        if float_model is None:
            float_model = Path(folder) / "float.onnx"
            save_onnx(float_twin(model), float_model)
        if images is None:
            return measure_latency(float_model, graph, options, progress)
        static = Path(folder) / "static.onnx"
        static_baseline(float_model, images.batches(1), static)
        found = measure_latency(float_model, graph, options, progress, static)
        ours, theirs = agreements(float_model, (graph, static), images.batches(32), model.task)
    return replace(
        found,
        images=len(images),
        agreement=ours,
        static_agreement=theirs,
        images_remarks=images.remarks(),
    )


def _images(folder: Path, model: "QuantizedModel") -> "ImageSet":
    """The real images of ``--against-static``."""
    from lrq_deploy.image_listing import FolderOption
    from lrq_deploy.images import read_image_folder

    option = FolderOption("--against-static", "that graph is then not measured")
    about = (model.input_shape, model.preprocessing, None, AGREEMENT_IMAGES)
    return read_image_folder(folder, *about, option)


def _engine_measured(
    bundle: "Bundle",
    options: "BenchmarkOptions",
    progress: ProgressCallback,
    file: Path | None,
    asked: bool,
) -> "tuple[EngineBenchmark | None, str]":
    """An engine, or why one that is there or was asked for cannot be measured."""
    from lrq_deploy.export.engine.latency import measure_engine
    from lrq_deploy.export.engine.run import EngineUnavailableError, built_engines

    if not asked and not built_engines(bundle):
        return None, ""
    try:
        return measure_engine(bundle, options, progress, file), ""
    except EngineUnavailableError as error:
        return None, f"{error.received}; {error.remedy}"


def bench_document(bundle: Path, found: "Benchmark") -> dict[str, Any]:
    """Plain values, with the schema version first."""
    from lrq_deploy.export.engine.latency import WARMUP, timed_runs

    document = {"schema_version": BENCHMARK_SCHEMA, "bundle": str(bundle), **found.to_json()}
    if found.engine is not None:
        document["engine"] |= {"runs": timed_runs(found.options), "warmup": WARMUP}
    return document


def bench_files(document: dict[str, Any], found: "Benchmark") -> dict[str, bytes]:
    """The document, and a picture of the latencies, by file name."""
    from lrq_deploy.export.measures.latency_picture import latency_png

    return {JSON_NAME: document_bytes(document), PICTURE_NAME: latency_png(found)}


def bench_of_device(path: Path, outputs: Path, measuring: Mapping[str, object]) -> "Benchmark":
    """What a device has measured, where no option asks for a measurement here.

    Args:
        path: the bundle.
        outputs: what came back from the device.
        measuring: values of the options that would measure here, by flag; None where not given.

    Raises:
        OptionError: one of them is given.
        BundleError: not a bundle, or the outputs are not of it.
    """
    from lrq_deploy.export.bundle.folder import load_bundle
    from lrq_deploy.export.device.onnxruntime_outputs import device_benchmark

    given = " and ".join(flag for flag, value in measuring.items() if value is not None)
    if given:
        raise OptionError(
            "--device-outputs reads what a device has measured, and nothing is measured here",
            f"it with {given}",
            f"leave {given} out; run.py on the device has --threads and --runs",
        )
    return device_benchmark(load_bundle(path), outputs)
