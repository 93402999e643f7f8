"""``lrq-deploy build --for-device``: a folder for TensorRT or ONNX Runtime on a device."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from lrq_deploy.cli.commands.build_document import print_document
from lrq_deploy.errors import OptionError
from lrq_deploy.wording import size_text

if TYPE_CHECKING:
    from lrq_deploy.export.device.folder import DeviceFolder, DeviceKit
    from lrq_deploy.export.engine.options import EngineOptions

__all__ = ["write_for_onnxruntime", "write_for_trtexec"]


def write_for_trtexec(
    bundle: Path, options: "EngineOptions", out: Path, refused: dict[str, bool], json: bool
) -> None:
    """``--engine tensorrt --for-device``.

    Args:
        bundle: directory.
        options: of the engine.
        out: folder to write.
        refused: flags that make no sense here, and whether they are given.
        json: whether to print JSON.

    Raises:
        LrqError: see ``write_device_folder``.
    """
    _refuse("--for-device names the folder to write, a new one", refused)
    from lrq_deploy.export.device.trtexec import TrtexecKit

    holds = "the graph, {images} check images and build.sh, for trtexec of TensorRT 10.3 or newer"
    _write(bundle, TrtexecKit(options), out, json, holds, "sh build.sh", ("validate",))


def write_for_onnxruntime(
    bundle: Path, version: str | None, out: Path | None, refused: dict[str, bool], json: bool
) -> None:
    """``--engine onnxruntime``, which has nothing to build but the folder of ``--for-device``.

    Args:
        bundle: directory.
        version: of ``--onnxruntime``.
        out: folder to write.
        refused: flags that make no sense here, and whether they are given.
        json: whether to print JSON.

    Raises:
        OptionError: no folder is named.
        LrqError: see ``write_device_folder``.
    """
    if out is None:
        raise OptionError(
            "--engine onnxruntime needs --for-device, the folder that it writes for a device",
            "it alone",
            "pass --for-device DIR, or no --engine: ONNX Runtime runs the bundle's model.onnx as "
            "it is, and --onnxruntime VERSION or --preoptimize write that graph for another one",
        )
    _refuse("--engine onnxruntime takes --for-device and --onnxruntime alone", refused)
    from lrq_deploy.export.device.onnxruntime_kit import OnnxRuntimeKit
    from lrq_deploy.export.runtime.version import parse_version

    kit = OnnxRuntimeKit(None if version is None else parse_version(version))
    holds = (
        "the graph, the float network, {images} check images and run.py, for numpy and "
        "onnxruntime {needs_onnxruntime} or newer"
    )
    _write(bundle, kit, out, json, holds, "python3 run.py", ("validate", "bench"))


def _refuse(rule: str, refused: dict[str, bool]) -> None:
    given = " and ".join(flag for flag, is_given in refused.items() if is_given)
    if given:
        raise OptionError(rule, f"it with {given}", f"leave {given} out")


def _write(
    bundle: Path,
    kit: "DeviceKit",
    out: Path,
    json: bool,
    holds: str,
    script: str,
    commands: tuple[str, ...],
) -> None:
    from lrq_deploy.export.bundle.folder import load_bundle
    from lrq_deploy.export.device.folder import write_device_folder

    found = write_device_folder(load_bundle(bundle), kit, out)
    if json:
        stated = {"graph_sha256": found.check.graph_sha256, **found.check.about}
        sizes = {"size_bytes": found.size_bytes, "images": found.images}
        print_document({"path": found.path, **sizes, **stated})
    else:
        _print(bundle, found, holds, script, commands)


def _print(
    bundle: Path, found: "DeviceFolder", holds: str, script: str, commands: tuple[str, ...]
) -> None:
    from lrq_deploy.cli.reports.console import ReportConsole

    console = ReportConsole()
    about = f"{shlex.quote(str(bundle))} --device-outputs {shlex.quote(str(found.path))}"
    for line in (
        f"{found.path}  {size_text(found.size_bytes)}",
        holds.format(images=found.images, **found.check.about),
        f"1. copy the folder to the device and run there: {script}",
        "2. copy its outputs.json back into this folder and run here:",
        *(f"   lrq-deploy {command} {about}" for command in commands),
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
