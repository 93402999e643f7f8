"""Options of the commands that run an engine or read what a device answered."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lrq_deploy.errors import BoundError

if TYPE_CHECKING:
    from lrq_deploy.export.bundle.folder import Bundle

__all__ = ["DeviceOutputs", "EngineFile", "RequireEngine", "check_engine_file", "no_engine"]

EngineFile = Annotated[
    Path | None,
    typer.Option(
        "--engine",
        metavar="FILE",
        help="Engine of build --out. Default: those beside the bundle, the first that runs here.",
    ),
]
RequireEngine = Annotated[
    bool, typer.Option("--require-engine", help="Fail if no engine of the bundle runs here.")
]
DeviceOutputs = Annotated[
    Path | None,
    typer.Option(
        "--device-outputs",
        metavar="DIR",
        show_default=False,
        help="Folder of build --for-device with the outputs.json of the device.",
    ),
]


def check_engine_file(file: Path | None, bundle: "Bundle") -> None:
    """Refuse a named engine that runs on no machine for this bundle, before anything does.

    Raises:
        BundleError: the bundle has no graph for an engine, or the file or its record is missing,
            changed, of another schema or graph.
    """
    from lrq_deploy.export.engine.file import read_engine
    from lrq_deploy.export.engine.from_bundle import graph_of

    if file is not None:
        graph = bundle.manifest.files[graph_of(bundle).name]
        read_engine(file, graph_sha256=graph.sha256)


def no_engine(reason: str) -> BoundError:
    """The error of ``--require-engine``.

    Args:
        reason: why none ran, with what the user can do.
    """
    rule = "with --require-engine an engine of the bundle must run"
    return BoundError(rule, reason, "do what it says, or leave --require-engine out")
