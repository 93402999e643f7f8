"""``lrq-deploy bench``: parse, one call, print, then let a missed ratio fail the command."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lrq_deploy.cli import quantize_parameters as parameter
from lrq_deploy.cli.quantize_flags import parse_integers
from lrq_deploy.errors import BundleError, OptionError
from lrq_deploy.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from lrq_deploy.export.latency import Benchmark, BenchmarkOptions

__all__ = ["BENCHMARK_SCHEMA", "bench", "bench_bundle"]

BENCHMARK_SCHEMA = 1

BundlePath = Annotated[
    Path,
    typer.Argument(
        metavar="BUNDLE", show_default=False, help="Directory that quantize or demo wrote."
    ),
]
FloatModel = Annotated[
    Path | None,
    typer.Option(
        "--float",
        metavar="MODEL.onnx",
        help="Float graph to compare with. Default: the student without its quantizers.",
    ),
]
Batch = Annotated[str, typer.Option("--batch", metavar="N,N", help="Images per run.")]
Runs = Annotated[int, typer.Option("--runs", metavar="N", help="Timed runs of each graph.")]
Threads = Annotated[int, typer.Option("--threads", metavar="N", help="Of one run of a graph.")]
MaxRatio = Annotated[
    float | None,
    typer.Option(
        "--max-latency-ratio",
        metavar="R",
        help="Fail if quantized takes more than R of the time of float, at any batch size.",
    ),
]


def bench(
    bundle: BundlePath,
    float_model: FloatModel = None,
    batch: Batch = "1,8",
    runs: Runs = 50,
    threads: Threads = 1,
    max_latency_ratio: MaxRatio = None,
    json: parameter.Json = False,
    quiet: parameter.Quiet = False,
) -> None:
    """Measure the quantized graph against the float one, interleaved, in ONNX Runtime."""
    if max_latency_ratio is not None and not max_latency_ratio > 0:
        raise OptionError(
            "--max-latency-ratio must be above 0", f"{max_latency_ratio:g}", "pass 0.7"
        )
    from rich.console import Console

    from lrq_deploy.cli.bench_report import print_benchmark
    from lrq_deploy.cli.progress_view import progress_view
    from lrq_deploy.export.latency import BenchmarkOptions

    options = BenchmarkOptions(threads, parse_integers("batch", batch, "1,8") or (), runs)
    console = Console()
    screen = Console(stderr=True)
    with progress_view(screen, quiet=quiet, plain=json) as view, redirect_stdout(sys.stderr):
        found = bench_bundle(bundle, options, float_model, view)
    if json:
        document = {"schema_version": BENCHMARK_SCHEMA, "bundle": str(bundle), **found.to_json()}
        console.print_json(data=document)
    else:
        print_benchmark(console, found)
    if max_latency_ratio is not None:
        found.require(max_latency_ratio)


def bench_bundle(
    path: Path,
    options: "BenchmarkOptions",
    float_model: Path | None = None,
    progress: ProgressCallback = silent,
) -> "Benchmark":
    """Measure a bundle's ``model.onnx`` against its float twin or a given float graph.

    Raises:
        BundleError: not a bundle, changed, of another schema, or with a graph that is not its
            own; or the float graph is missing.
        ExportError: ONNX Runtime does not accept a graph, or the graphs do not compare.
    """
    import tempfile

    from lrq_deploy.export.bundle import load_bundle
    from lrq_deploy.export.float_twin import float_twin
    from lrq_deploy.export.graph_identity import check_graph
    from lrq_deploy.export.latency import measure_latency
    from lrq_deploy.export.onnx_graph import save_onnx

    bundle = load_bundle(path)
    graph = bundle.file("model.onnx")
    check_graph(graph, "onnxruntime", bundle.manifest.teacher_fingerprint)
    if float_model is not None:
        if not float_model.is_file():
            raise BundleError(
                "--float must name an ONNX file",
                f"{float_model}",
                "check the path, or leave it out",
            )
        return measure_latency(float_model, graph, options, progress)
    with tempfile.TemporaryDirectory() as folder:
        twin = Path(folder) / "float.onnx"
        save_onnx(float_twin(bundle.model()), twin)
        return measure_latency(twin, graph, options, progress)
