"""``expected.json`` of a device folder: what a network must answer on the device."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lrq_deploy.errors import BundleError
from lrq_deploy.export.bundle.folder import Bundle
from lrq_deploy.export.bundle.own_document import own_document, read_document
from lrq_deploy.export.parity.compare import Parity
from lrq_deploy.export.runtime.run import EXPECTED_NAME, OUTPUTS_NAME
from lrq_deploy.task import Task

__all__ = [
    "DEVICE_SCHEMA",
    "EXPECTED_NAME",
    "OUTDATED",
    "OUTPUTS_NAME",
    "CheckRuns",
    "DeviceCheck",
    "images_name",
    "short",
]

DEVICE_SCHEMA = 2
OUTDATED = "use the lrq-deploy version that wrote the folder, or write it again"


@dataclass(frozen=True)
class CheckRuns:
    """How the check images are divided.

    Attributes:
        size: images of a file.
        count: files.
    """

    size: int
    count: int


def images_name(run: int) -> str:
    """File of check images, counted from 0."""
    return f"images.{run}.bin"


def short(logits: Tensor) -> tuple[tuple[float, ...], ...]:
    """Nine digits tell all float32 apart; more only fill the file."""
    return tuple(tuple(float(f"{value:.9g}") for value in row) for row in logits.tolist())


@dataclass(frozen=True)
class DeviceCheck:
    """What the check images of a device folder must give.

    Attributes:
        runtime: of the device, as ``--engine`` names it.
        graph: file of the bundle that the folder was made from.
        graph_sha256: of that file.
        network, scheme: of the bundle, for people.
        task: what the logits mean.
        files: SHA-256 of every other file of the folder by name.
        images_per_file: of the check images.
        logits: of the exact student, one row per image, in the order of the images.
        here: the same of the runtime where the folder was written; None where it does not run.
        step: value of one integer of the last layer by logit; None where no layer ends the network.
        simulation: how close torch's own float32 comes to the exact student on these images.
        about: plain values that the runtime's own script and reader know.
    """

    runtime: str
    graph: str
    graph_sha256: str
    network: str
    scheme: str
    task: Task
    files: Mapping[str, str]
    images_per_file: int
    logits: tuple[tuple[float, ...], ...]
    here: tuple[tuple[float, ...], ...] | None
    step: tuple[float, ...] | None
    simulation: Parity
    about: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        """JSON with sorted keys, one line."""
        return own_document(DEVICE_SCHEMA, asdict(self), indent=None)

    @staticmethod
    def read(folder: Path) -> "DeviceCheck":
        """Read the file of a device folder.

        Raises:
            BundleError: there is none, it is not ours, or of another schema.
        """
        path = folder / EXPECTED_NAME
        found = read_document(path, DeviceCheck, (DEVICE_SCHEMA,), _refused, OUTDATED)
        rows = (*found.logits, *(found.here or ()), *((found.step,) if found.step else ()))
        if not found.logits or len({len(row) for row in rows}) != 1:
            raise _refused(path, "logits: rows and steps of different lengths, or none")
        return found

    @staticmethod
    def beside(outputs: Path, bundle: Bundle) -> "tuple[DeviceCheck, Path]":
        """What a device had to answer, and the file with what it did.

        Args:
            outputs: the device folder with ``outputs.json`` in it, or that file beside
                ``expected.json``.
            bundle: what the folder must be made from.

        Raises:
            BundleError: see ``read``; or the folder is of another bundle.
        """
        path = outputs / OUTPUTS_NAME if outputs.is_dir() else outputs
        check = DeviceCheck.read(path.parent)
        graph = bundle.manifest.files.get(check.graph)
        if graph is None or graph.sha256 != check.graph_sha256:
            raise BundleError(
                f"{EXPECTED_NAME} must be of this bundle's {check.graph}",
                f"{path.parent}, which is of {check.network}, graph {check.graph_sha256[:12]}",
                "pass the bundle it was made from, or write the folder again with build "
                "--for-device",
            )
        return check, path


def _refused(path: Path, reason: str) -> BundleError:
    return BundleError(
        f"device outputs need the {EXPECTED_NAME} of the folder that build --for-device wrote",
        f"{path} ({reason})",
        "copy outputs.json into that folder and pass the folder",
    )
