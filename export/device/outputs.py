"""Judges what came back from a device, whichever runtime it has."""

from pathlib import Path
from typing import Protocol

from lrq_deploy.errors import BundleError
from lrq_deploy.export.bundle.folder import Bundle
from lrq_deploy.export.device.check import EXPECTED_NAME, DeviceCheck
from lrq_deploy.export.device.onnxruntime_outputs import OnnxRuntimeReader
from lrq_deploy.export.device.trtexec_outputs import TrtexecReader
from lrq_deploy.export.parity.bounds import Bound
from lrq_deploy.export.parity.compare import Parity
from lrq_deploy.export.parity.ladder import Rung, reachable_bound
from lrq_deploy.student.frozen import QuantizedModel

__all__ = ["judge_outputs"]


class DeviceReader(Protocol):
    """Reads what the script of a ``DeviceKit`` wrote.

    Attributes:
        runtime: of the kit.
        title: of the rung.
    """

    runtime: str
    title: str

    def bound(self, model: QuantizedModel) -> Bound:
        """What a network without float operators must reach there."""
        ...

    def compare(self, check: DeviceCheck, path: Path) -> tuple[Parity, str]:
        """The answers against the exact student, and what is to be known of them, or empty."""
        ...


_READERS: tuple[DeviceReader, ...] = (OnnxRuntimeReader(), TrtexecReader())


def judge_outputs(bundle: Bundle, outputs: Path) -> Rung:
    """Compare the outputs of a device with the exact student of the bundle.

    Args:
        bundle: what the device folder was made from.
        outputs: the device folder with ``outputs.json`` in it, or that file beside
            ``expected.json``.

    Raises:
        BundleError: a file is missing, damaged, of another bundle or of other images.
        ParityError: a logit is not finite.
    """
    check, path = DeviceCheck.beside(outputs, bundle)
    reader = next((reader for reader in _READERS if reader.runtime == check.runtime), None)
    if reader is None:
        raise BundleError(
            f"{EXPECTED_NAME} must be for one of {', '.join(x.runtime for x in _READERS)}",
            f"{check.runtime!r} in {path.parent}",
            "use the lrq-deploy version that wrote the folder, or write it again",
        )
    parity, remark = reader.compare(check, path)
    model = bundle.model()
    bound = reachable_bound(model, check.simulation, reader.bound(model))
    return Rung("device", reader.title, bound, parity, repeats=True, remark=remark)
