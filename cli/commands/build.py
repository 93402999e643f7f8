"""``lrq-deploy build``: parse, one call, print."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrq_deploy.cli.commands.build_document import BUILD_SCHEMA, print_document
from lrq_deploy.cli.commands.device_folder import write_for_onnxruntime, write_for_trtexec
from lrq_deploy.cli.flags import quantize_parameters as parameter
from lrq_deploy.cli.flags.quantize_flags import whole_numbers
from lrq_deploy.errors import OptionError
from lrq_deploy.wording import size_text

if TYPE_CHECKING:
    from lrq_deploy.cli.reports.console import ReportConsole
    from lrq_deploy.export.engine.from_bundle import EngineResult
    from lrq_deploy.export.engine.options import EngineOptions

__all__ = ["BUILD_SCHEMA", "build"]

_BATCH = "1,1,8"

BundleFolder = Annotated[
    Path,
    typer.Argument(
        metavar="BUNDLE", show_default=False, help="What lrq-deploy quantize wrote as --out."
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        metavar="tensorrt|tensorrt-rtx|onnxruntime",
        show_default=False,
        help="tensorrt builds for the GPU of this machine; tensorrt-rtx needs none; onnxruntime "
        "is for --for-device.",
    ),
]
Preoptimize = Annotated[
    bool,
    typer.Option(
        "--preoptimize",
        help="Write the graph that ONNX Runtime fuses, for the CPU type of this machine only.",
    ),
]
OlderRuntime = Annotated[
    str | None,
    typer.Option(
        "--onnxruntime",
        metavar="VERSION",
        show_default=False,
        help="Write model.onnx for devices with an ONNX Runtime of this version, 1.18 or later.",
    ),
]
Sm = Annotated[
    str | None,
    typer.Option(
        "--sm",
        metavar="86,89,120",
        show_default=False,
        help="Compute capabilities to build for, tensorrt-rtx only. 86,89,120 unless given.",
    ),
]
Batch = Annotated[
    str | None,
    typer.Option(
        metavar="N|MIN,OPT,MAX",
        show_default=False,
        help=f"Batch size, or smallest, tuned for, largest. {_BATCH} unless given.",
    ),
]
Workspace = Annotated[
    int | None,
    typer.Option(
        metavar="MIB", show_default=False, help="Largest scratch memory of the engine in MiB."
    ),
]
Fp16Rest = Annotated[
    bool,
    typer.Option("--fp16-rest", help="Compute in FP16 what is not quantized; FP32 unless given."),
]
ForDevice = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        show_default=False,
        help="With tensorrt: write a folder from which trtexec builds on the device (Jetson). With "
        "onnxruntime: one that runs, checks and times the network where numpy and onnxruntime are.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", show_default=False, help="File to write. Beside the bundle unless given."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")]


def build(
    bundle: BundleFolder,
    engine: Engine = None,
    preoptimize: Preoptimize = False,
    onnxruntime: OlderRuntime = None,
    sm: Sm = None,
    batch: Batch = None,
    workspace: Workspace = None,
    fp16_rest: Fp16Rest = False,
    for_device: ForDevice = None,
    out: Out = None,
    force: Force = False,
    json: parameter.Json = False,
) -> None:
    """Build a TensorRT engine or a graph for one CPU or an older ONNX Runtime from a bundle.

    With --for-device, write what builds the engine on the device itself, or runs the graph there.
    """
    of_engines = {
        "--sm": sm is not None,
        "--batch": batch is not None,
        "--workspace": workspace is not None,
        "--fp16-rest": fp16_rest,
    }
    written = {"--out": out is not None, "--force": force}
    if engine == "onnxruntime":
        without = {**of_engines, "--preoptimize": preoptimize, **written}
        write_for_onnxruntime(bundle, onnxruntime, for_device, without, json)
        return
    if engine is None and for_device is not None:
        raise OptionError(
            "--for-device needs the runtime of the device, --engine tensorrt or onnxruntime",
            "it without",
            "pass --engine onnxruntime, which --onnxruntime VERSION may go with, or --engine "
            "tensorrt",
        )
    chosen = {"--engine": engine, "--preoptimize": preoptimize, "--onnxruntime": onnxruntime}
    given = [flag for flag, value in chosen.items() if value]
    if len(given) != 1:
        raise OptionError(
            "build needs one of --engine, --preoptimize and --onnxruntime",
            " and ".join(given) or "none",
            "pass --engine tensorrt-rtx, --preoptimize, or --onnxruntime 1.18",
        )
    if engine is None:
        _refuse_options_of_engines(of_engines, given[0])
        if onnxruntime is None:
            _preoptimize(bundle, out, force, json)
        else:
            _for_runtime(bundle, onnxruntime, out, force, json)
        return
    options = _options(engine, sm, batch, workspace, fp16_rest)
    if for_device is not None:
        write_for_trtexec(bundle, options, for_device, written, json)
        return
    _build_engine(bundle, options, out, force, json)


def _build_engine(
    folder: Path, options: "EngineOptions", out: Path | None, force: bool, json: bool
) -> None:
    from lrq_deploy.cli.reports.console import ReportConsole
    from lrq_deploy.export.bundle.folder import load_bundle
    from lrq_deploy.export.engine.from_bundle import build_from_bundle, default_engine_path

    loaded = load_bundle(folder)
    path = out or default_engine_path(loaded, options.kind)
    result = build_from_bundle(loaded, options, path, force)
    console = ReportConsole()
    if json:
        console.print_json(data=_document(result))
    else:
        _print(console, result)


def _refuse_options_of_engines(stated: dict[str, bool], built: str) -> None:
    """Refuse what would have no effect, because no engine is built."""
    flags = [flag for flag, is_stated in stated.items() if is_stated]
    if not flags:
        return
    named = ", ".join(flags)
    raise OptionError(
        f"{named} {'is' if len(flags) == 1 else 'are'} for engines",
        f"{named} with {built}",
        f"leave {'it' if len(flags) == 1 else 'them'} out, "
        f"or pass --engine tensorrt-rtx instead of {built}",
    )


def _preoptimize(folder: Path, out: Path | None, force: bool, json: bool) -> None:
    from dataclasses import asdict

    from lrq_deploy.export.bundle.folder import load_bundle
    from lrq_deploy.export.derived.preoptimized import preoptimize

    loaded = load_bundle(folder)
    result = preoptimize(loaded, out or loaded.beside(".optimized.onnx"), force)
    if json:
        print_document(asdict(result))
    else:
        cpu = f"{result.cpu.name} ({result.cpu.machine} {result.cpu.features})"
        _print_graph(result.path, result.size_bytes, f"{cpu} and onnxruntime {result.runtime} only")


def _for_runtime(folder: Path, version: str, out: Path | None, force: bool, json: bool) -> None:
    from dataclasses import asdict

    from lrq_deploy.export.bundle.folder import load_bundle
    from lrq_deploy.export.derived.older_runtime import write_for_runtime
    from lrq_deploy.export.runtime.version import parse_version, version_text

    wanted = parse_version(version)
    loaded = load_bundle(folder)
    beside = loaded.beside(f".onnxruntime-{version_text(wanted)}.onnx")
    result = write_for_runtime(loaded, wanted, out or beside, force)
    if json:
        print_document(asdict(result))
    else:
        runtimes = f"onnxruntime {result.needs_onnxruntime} or later"
        _print_graph(result.path, result.size_bytes, runtimes)


def _print_graph(path: Path, size_bytes: int, meant_for: str) -> None:
    from lrq_deploy.cli.reports.console import ReportConsole

    console = ReportConsole()
    for line in (
        f"{path}  {size_text(size_bytes)}",
        f"for {meant_for}; the same bits as model.onnx",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _options(
    engine: str, sm: str | None, batch: str | None, workspace: int | None, fp16_rest: bool
) -> "EngineOptions":
    from lrq_deploy.export.engine.options import BatchProfile, EngineOptions

    given = _BATCH if batch is None else batch
    sizes = whole_numbers("--batch", given, f"pass --batch {_BATCH}")
    if len(sizes) == 1:
        sizes *= 3
    if len(sizes) != 3:
        raise OptionError(
            "--batch must be one number or MIN,OPT,MAX",
            str(batch),
            f"pass for instance --batch 8, or --batch {_BATCH}",
        )
    meant = f"pass --sm {_times_ten(sm or '') or '86,89'}"
    sms = () if sm is None else whole_numbers("--sm", sm, meant)
    kind: Any = engine  # judged by EngineOptions
    return EngineOptions(kind, sms, BatchProfile(*sizes), workspace, fp16_rest)


def _times_ten(text: str) -> str:
    """``86,120`` of ``8.6,12.0``, as NVIDIA writes compute capabilities; empty of other text."""
    parts = [part.strip().removeprefix("sm_") for part in text.split(",")]
    dotted = all(re.fullmatch(r"\d{1,2}(\.\d|\d)", part) for part in parts)
    return ",".join(part.replace(".", "") for part in parts) if dotted else ""


def _document(result: "EngineResult") -> dict[str, Any]:
    """Plain values, with the schema version first."""
    record = vars(result.record) | {"engine": vars(result.record.engine)}
    return {"schema_version": BUILD_SCHEMA, "path": str(result.path), **record}


def _print(console: "ReportConsole", result: "EngineResult") -> None:
    record, coverage = result.record, result.coverage
    smallest, usual, largest = record.batch
    gpus = ",".join(str(sm) for sm in record.compute_capabilities) or "this machine's GPU"
    lines = [
        f"{result.path}  {size_text(record.engine.size_bytes)}",
        f"{record.kind} {record.versions[record.kind]}, for {gpus}, "
        f"batch {smallest} to {largest}, tuned for {usual}, "
        f"the rest in {'FP16' if record.fp16_rest else 'FP32'}",
    ]
    if coverage is None:
        lines.append("INT8: unknown, the build log does not say what the layers multiply")
    else:
        count = len(coverage.layers) - len(coverage.fallbacks)
        lines.append(
            f"INT8: {count} of {len(coverage.layers)} convolutions and linear layers, "
            f"{100 * coverage.share:.1f} % of the multiply-adds"
        )
        lines += [f"  {layer.name}: {layer.reason}" for layer in coverage.fallbacks]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
