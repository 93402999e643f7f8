"""What ``run.py`` found on a device, from the ``outputs.json`` that it wrote."""

from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import torch

from lrq_deploy.errors import BundleError
from lrq_deploy.export.bundle.folder import Bundle
from lrq_deploy.export.bundle.manifest import FileRecord
from lrq_deploy.export.bundle.own_document import read_document
from lrq_deploy.export.device.check import EXPECTED_NAME, OUTDATED, DeviceCheck
from lrq_deploy.export.measures.latency import (
    BatchLatency,
    Benchmark,
    BenchmarkOptions,
    DeviceFacts,
)
from lrq_deploy.export.parity.bounds import Bound, integer_bound
from lrq_deploy.export.parity.compare import Parity, compare
from lrq_deploy.export.runtime.run import LEAST_RUNS, OUTPUTS_SCHEMA
from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.wording import printable

__all__ = ["OnnxRuntimeReader", "RunOutputs", "device_benchmark"]


@dataclass(frozen=True)
class RunOutputs:
    """Contents of ``outputs.json``.

    Attributes:
        expected_sha256: of the ``expected.json`` that lay beside ``run.py``.
        device: what ran.
        threads, runs, warmup: of the timing.
        logits: one row per check image.
        batches: one entry per batch size.
        float_bytes, quantized_bytes: sizes of the files.
        float_memory_bytes, quantized_memory_bytes: as of ``Benchmark``.
    """

    expected_sha256: str
    device: DeviceFacts
    threads: int
    runs: int
    warmup: int
    logits: tuple[tuple[float, ...], ...]
    batches: tuple[BatchLatency, ...]
    float_bytes: int
    quantized_bytes: int
    float_memory_bytes: int | None
    quantized_memory_bytes: int | None

    @staticmethod
    def read(path: Path, check: DeviceCheck) -> "RunOutputs":
        """Read the file that lies beside the ``expected.json`` it was made with.

        Raises:
            BundleError: there is none, it is damaged or partial, of another schema, or of another
                folder.
        """
        found = read_document(path, RunOutputs, (OUTPUTS_SCHEMA,), _refused, OUTDATED)
        expected = (path.parent / EXPECTED_NAME).read_bytes()
        if found.expected_sha256 != FileRecord.of(expected).sha256:
            raise BundleError(
                f"{path.name} must come from the run.py that lies beside its {EXPECTED_NAME}",
                f"{path}, which is of another folder, or {EXPECTED_NAME} has changed",
                "run run.py of this folder on the device again and copy its outputs.json",
            )
        classes = len(check.logits[0])
        if [len(row) for row in found.logits] != [classes] * len(check.logits):
            raise _refused(path, f"not {classes} logits of each of {len(check.logits)} images")
        times = [t for batch in found.batches for t in (batch.float_graph, batch.quantized)]
        if not times or not all(isfinite(t.p50_ms) and t.p50_ms > 0 for t in times):
            raise _refused(path, "times that are none")
        if min(found.threads, found.warmup) < 1 or found.runs < LEAST_RUNS:
            raise _refused(path, "too few runs or threads")
        return found


class OnnxRuntimeReader:
    """Of the folder of ``OnnxRuntimeKit``."""

    runtime = "onnxruntime"
    title = "ONNX Runtime on the device"

    def bound(self, model: QuantizedModel) -> Bound:
        """That of the fused graph here: its layers add integers on every CPU."""
        return integer_bound(model)

    def compare(self, check: DeviceCheck, path: Path) -> tuple[Parity, str]:
        """The answers against the exact student, and how many have the bits of those here.

        Raises:
            BundleError: see ``RunOutputs.read``.
            ParityError: a logit is not finite.
        """
        outputs = RunOutputs.read(path, check)
        exact, found = (
            torch.tensor(rows, dtype=torch.float32) for rows in (check.logits, outputs.logits)
        )
        pairs = zip(outputs.logits, check.here or (), strict=False)
        same = sum(theirs == ours for theirs, ours in pairs)
        remark = (
            f"gave the bits of ONNX Runtime where the folder was written on {same} of {len(exact)} "
            f"images: {outputs.device.describe()}"
        )
        return compare(exact, found, check.task), remark


def device_benchmark(bundle: Bundle, outputs: Path) -> Benchmark:
    """The latencies that a device measured, as if they were of this machine.

    Args:
        bundle: what the device folder was made from.
        outputs: as of ``judge_outputs``.

    Raises:
        BundleError: see ``RunOutputs.read``; or the folder is for another runtime.
    """
    check, path = DeviceCheck.beside(outputs, bundle)
    if check.runtime != OnnxRuntimeReader.runtime:
        raise BundleError(
            "bench needs what run.py wrote, which times the float network too",
            f"{path.parent}, which is for {check.runtime}",
            "read times.log there, or pass a folder of build --engine onnxruntime --for-device",
        )
    found = RunOutputs.read(path, check)
    sizes = tuple(batch.batch_size for batch in found.batches)
    return Benchmark(
        options=BenchmarkOptions(
            found.threads, sizes, found.runs, found.warmup, found.quantized_memory_bytes is not None
        ),
        cpu=printable(found.device.cpu, 200),
        runtime=f"onnxruntime {printable(found.device.onnxruntime)}",
        batches=found.batches,
        float_bytes=found.float_bytes,
        quantized_bytes=found.quantized_bytes,
        float_memory_bytes=found.float_memory_bytes,
        quantized_memory_bytes=found.quantized_memory_bytes,
        device=found.device,
    )


def _refused(path: Path, reason: str) -> BundleError:
    return BundleError(
        "device outputs must be what run.py wrote, complete",
        f"{path} ({reason})",
        "run run.py on the device again and copy its outputs.json",
    )
