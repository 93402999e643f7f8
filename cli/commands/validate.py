"""``lrq-deploy validate``: parse, one call, print, then let a missed bound fail the command."""

from pathlib import Path
from typing import Annotated

import typer

from lrq_deploy.cli.flags import quantize_parameters as parameter
from lrq_deploy.cli.flags.accuracy_gates import AccuracyGates, MaxDrop, MinAgreement
from lrq_deploy.cli.flags.engine_parameters import DeviceOutputs, EngineFile, RequireEngine
from lrq_deploy.cli.job.validation import ValidateOptions, validate_bundle

__all__ = ["validate"]

BundlePath = Annotated[
    Path,
    typer.Argument(
        metavar="BUNDLE", show_default=False, help="Directory that quantize or demo wrote."
    ),
]
ImageFolder = Annotated[
    Path | None,
    typer.Option(
        "--images", metavar="DIR", help="Folder of images. Default: made from the bundle's own."
    ),
]
Count = Annotated[int, typer.Option("--count", metavar="N", help="Images at most.")]
ReferenceCount = Annotated[
    int,
    typer.Option("--reference-count", metavar="N", help="Images for the slow numpy reference."),
]
Threads = Annotated[
    int, typer.Option("--threads", metavar="N", help="Of ONNX Runtime, in one run of a graph.")
]
MinCoverage = Annotated[
    float | None,
    typer.Option(
        "--min-integer-coverage",
        metavar="0..1",
        help="Fail if a smaller share of the multiply-adds runs in integers.",
    ),
]


def validate(
    bundle: BundlePath,
    images: ImageFolder = None,
    count: Count = 1000,
    reference_count: ReferenceCount = 16,
    threads: Threads = 1,
    min_integer_coverage: MinCoverage = None,
    engine: EngineFile = None,
    require_engine: RequireEngine = False,
    device_outputs: DeviceOutputs = None,
    max_drop: MaxDrop = None,
    min_agreement: MinAgreement = None,
    json: parameter.Json = False,
    quiet: parameter.Quiet = False,
) -> None:
    """Show that every form of a bundle's network computes the same. Fails below a bound."""
    counts = (count, reference_count, threads)
    gates = (min_integer_coverage, engine, require_engine)
    accuracy = AccuracyGates(max_drop, min_agreement)
    options = ValidateOptions(bundle, images, *counts, *gates, device_outputs, accuracy)
    from lrq_deploy.cli.reports.console import ReportConsole
    from lrq_deploy.cli.reports.progress_view import view_beside
    from lrq_deploy.cli.reports.validate import print_validation

    console = ReportConsole()
    with view_beside(ReportConsole(stderr=True), json=json, quiet=quiet) as view:
        found = validate_bundle(options, view)
    if json:
        console.print_json(data=found.to_json())
    else:
        print_validation(console, found)
    found.require()
