"""``lrq-deploy bench``: parse, one call, print, then let a missed ratio fail the command."""

from pathlib import Path
from typing import Annotated

import typer

from lrq_deploy.cli.flags import quantize_parameters as parameter
from lrq_deploy.cli.flags.engine_parameters import (
    DeviceOutputs,
    EngineFile,
    RequireEngine,
    no_engine,
)
from lrq_deploy.cli.flags.quantize_flags import parse_integers
from lrq_deploy.cli.job.benchmark import (
    JSON_NAME,
    PICTURE_NAME,
    bench_bundle,
    bench_document,
    bench_files,
    bench_of_device,
)
from lrq_deploy.cli.result_files import check_folder, write_files
from lrq_deploy.errors import OptionError

__all__ = ["bench"]

_BATCH = "1,8"
_RUNS = 50

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
Batch = Annotated[
    str | None,
    typer.Option(
        "--batch", metavar="N,N", show_default=False, help=f"Images per run. {_BATCH} unless given."
    ),
]
Runs = Annotated[
    int | None,
    typer.Option(
        "--runs",
        metavar="N",
        show_default=False,
        help=f"Timed runs of each graph, 10 or more. {_RUNS} unless given.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", metavar="N", show_default=False, help="Of one run of a graph. 1 unless given."
    ),
]
StaticImages = Annotated[
    Path | None,
    typer.Option(
        "--against-static",
        metavar="DIR",
        help="Also measure onnxruntime's quantize_static, calibrated on these real images.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help=f"Folder for {JSON_NAME} and {PICTURE_NAME}; nothing is written without it.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace such files in --out.")]
MaxRatio = Annotated[
    float | None,
    typer.Option(
        "--max-latency-ratio",
        metavar="R",
        help="Fail if quantized takes more than R of the time of float, at any batch size, on the "
        "CPU, in an engine or on the device.",
    ),
]


def bench(
    bundle: BundlePath,
    float_model: FloatModel = None,
    batch: Batch = None,
    runs: Runs = None,
    threads: Threads = None,
    against_static: StaticImages = None,
    max_latency_ratio: MaxRatio = None,
    engine: EngineFile = None,
    require_engine: RequireEngine = False,
    device_outputs: DeviceOutputs = None,
    out: Out = None,
    force: Force = False,
    json: parameter.Json = False,
    quiet: parameter.Quiet = False,
) -> None:
    """Measure quantized against float, interleaved: in ONNX Runtime, and in an engine on a GPU.

    With --device-outputs nothing is measured here: the figures are those of the device.
    """
    if max_latency_ratio is not None and not max_latency_ratio > 0:
        raise OptionError(
            "--max-latency-ratio must be above 0", f"{max_latency_ratio:g}", "pass 0.7"
        )
    from lrq_deploy.cli.reports.bench import print_benchmark
    from lrq_deploy.cli.reports.console import ReportConsole
    from lrq_deploy.cli.reports.progress_view import view_beside
    from lrq_deploy.export.measures.latency import BenchmarkOptions

    if out is not None:
        check_folder(out, (JSON_NAME, PICTURE_NAME), force)
    console = ReportConsole()
    if device_outputs is not None:
        measuring = {
            "--float": float_model,
            "--batch": batch,
            "--runs": runs,
            "--threads": threads,
            "--against-static": against_static,
            "--engine": engine,
            "--require-engine": require_engine or None,
        }
        found = bench_of_device(bundle, device_outputs, measuring)
    else:
        sizes = parse_integers("batch", _BATCH if batch is None else batch, _BATCH) or ()
        runs = _RUNS if runs is None else runs
        options = BenchmarkOptions(1 if threads is None else threads, sizes, runs)
        with view_beside(ReportConsole(stderr=True), json=json, quiet=quiet) as view:
            about = (engine, require_engine)
            found = bench_bundle(bundle, options, float_model, view, against_static, *about)
    document = bench_document(bundle, found)
    if out is not None:
        write_files(out, bench_files(document, found))
    if json:
        console.print_json(data=document)
    else:
        print_benchmark(console, found)
    if require_engine and found.engine is None:
        raise no_engine(found.engine_remark)
    if max_latency_ratio is not None:
        found.require(max_latency_ratio)
