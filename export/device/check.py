"""``expected.json`` of a device folder: what an engine that is built there must answer."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from lrq_deploy.errors import BundleError
from lrq_deploy.export.manifest import wrong_field
from lrq_deploy.export.parity.compare import Parity

__all__ = ["DEVICE_SCHEMA", "EXPECTED_NAME", "DeviceCheck"]

DEVICE_SCHEMA = 1
EXPECTED_NAME = "expected.json"
_PRODUCER = "lrq-deploy"


@dataclass(frozen=True)
class DeviceCheck:
    """What the check images of a device folder must give.

    Attributes:
        graph_sha256: of the bundle's ``model.tensorrt.onnx``.
        network, scheme: of the bundle, for people.
        fp16_rest: whether the graph of the folder computes in FP16 what is not quantized.
        batch: smallest, usual, largest of the engine.
        images_per_run: of the check images.
        logits: of the exact student, one row per image, in the order of the images.
        step: value of one integer of the last layer by logit; None where no layer ends the network.
        simulation: how close torch's own float32 comes to the exact student on these images.
    """

    graph_sha256: str
    network: str
    scheme: str
    fp16_rest: bool
    batch: tuple[int, int, int]
    images_per_run: int
    logits: tuple[tuple[float, ...], ...]
    step: tuple[float, ...] | None
    simulation: Parity

    def to_bytes(self) -> bytes:
        """JSON with sorted keys, one line."""
        document = {"producer": _PRODUCER, "schema_version": DEVICE_SCHEMA, **asdict(self)}
        return f"{json.dumps(document, sort_keys=True, allow_nan=False)}\n".encode()

    @staticmethod
    def read(folder: Path) -> "DeviceCheck":
        """Read the file of a device folder.

        Raises:
            BundleError: there is none, it is not ours, or of another schema.
        """
        from pydantic import TypeAdapter, ValidationError

        path = folder / EXPECTED_NAME
        try:
            raw = path.read_bytes()
            document = json.loads(raw)
        except (OSError, RecursionError, ValueError) as error:
            raise _refused(path, f"{type(error).__name__}: {error}") from error
        stated = document if isinstance(document, dict) else {}
        if stated.get("producer") != _PRODUCER:
            raise _refused(path, "another producer")
        if stated.get("schema_version") != DEVICE_SCHEMA:
            raise BundleError(
                f"{EXPECTED_NAME} must have schema_version {DEVICE_SCHEMA}",
                f"{stated.get('schema_version')!r} in {path}",
                "use the lrq-deploy version that wrote the folder, or write it again",
            )
        try:
            return TypeAdapter(DeviceCheck).validate_json(raw, strict=True)
        except ValidationError as error:
            raise _refused(path, wrong_field(error)) from error


def _refused(path: Path, reason: str) -> BundleError:
    return BundleError(
        f"device outputs need the {EXPECTED_NAME} of the folder that build --for-device wrote",
        f"{path} ({reason})",
        "copy outputs.json into that folder and pass the folder",
    )
