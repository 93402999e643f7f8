"""Engine files and the record beside each of them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lrq_deploy.durable import write_atomically
from lrq_deploy.errors import BundleError, WriteError
from lrq_deploy.export.bundle.folder import Bundle
from lrq_deploy.export.bundle.manifest import FileRecord
from lrq_deploy.export.bundle.output_file import check_output_file
from lrq_deploy.export.bundle.own_document import own_document, read_document
from lrq_deploy.export.engine.options import EngineKind

__all__ = [
    "ENGINE_SCHEMA",
    "EngineRecord",
    "check_engine_output",
    "check_runtime",
    "read_engine",
    "sidecar_of",
    "write_engine",
]

ENGINE_SCHEMA = 3
_AGAIN = "build it again with lrq-deploy build"


@dataclass(frozen=True)
class EngineRecord:
    """What an engine file is, and where it runs.

    Attributes:
        engine: hash and size of the engine file.
        graph_sha256: of the ``model.tensorrt.onnx`` that it was built from.
        network, scheme: of the bundle, for people.
        kind: of the builder.
        versions: of this project and of the builder, by name; of ``cuda`` and the ``driver`` too
            where the engine is for the GPU that built it.
        compute_capabilities: GPUs that it runs on, times ten; empty where the driver did not say
            which one built it.
        batch: smallest, usual, largest.
        input_shape: ``(C, H, W)``.
        workspace_mib: limit of the scratch memory in MiB, ``None`` for the builder's choice.
        fp16_rest: whether it computes in FP16 what is not quantized.
        audit: which layers run in INT8, as ``Coverage.to_json``; ``None`` if the log is silent.
        gpu: name of the GPU that the engine was built on and is for; empty if built ahead of time.
        tf32: whether its float32 sums may round their factors to TF32; ``None`` if not stated.
    """

    engine: FileRecord
    graph_sha256: str
    network: str
    scheme: str
    kind: EngineKind
    versions: Mapping[str, str]
    compute_capabilities: tuple[int, ...]
    batch: tuple[int, int, int]
    input_shape: tuple[int, ...]
    workspace_mib: int | None
    fp16_rest: bool
    audit: Mapping[str, Any] | None
    gpu: str = ""
    tf32: bool | None = None

    def to_bytes(self) -> bytes:
        """Indented JSON with sorted keys."""
        return own_document(ENGINE_SCHEMA, asdict(self))


def sidecar_of(engine: Path) -> Path:
    """Path of the record that belongs to an engine file."""
    return engine.with_name(f"{engine.name}.json")


def check_engine_output(out: Path, bundle: Bundle, force: bool) -> None:
    """Refuse an engine file or its record before anything is built; writes nothing.

    Raises:
        OutputError: see ``check_output_file``.
    """
    check_output_file(out, bundle, force)
    check_output_file(sidecar_of(out), bundle, force)


def write_engine(
    out: Path, data: bytes, record: EngineRecord, bundle: Bundle, force: bool = False
) -> None:
    """Write the engine and its record; each appears whole.

    Raises:
        OutputError: as ``check_engine_output``.
        WriteError: the disk refuses.
    """
    check_engine_output(out, bundle, force)
    try:
        # The record comes last: beside another engine, by its hash, it is refused.
        write_atomically(out, data)
        write_atomically(sidecar_of(out), record.to_bytes())
    except OSError as error:
        raise WriteError(
            "the engine must be written completely",
            f"{error.strerror or error} at {error.filename or out}",
            "free space on the disk or choose another --out",
        ) from error


def read_engine(
    path: Path,
    kind: str | None = None,
    graph_sha256: str | None = None,
) -> tuple[bytes, EngineRecord]:
    """Read an engine that is what its record says; each given argument must match as well.

    Args:
        path: engine file.
        kind: of the runtime that is to load it.
        graph_sha256: of the bundle's ``model.tensorrt.onnx``.

    Raises:
        BundleError: a file is missing, changed, of another schema, or does not match.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(
            "an engine file must be readable",
            f"{path} ({error.strerror or error})",
            "build it with lrq-deploy build",
        ) from error
    record = _read_record(sidecar_of(path))
    _must_match("its record's hash", record.engine.sha256, FileRecord.of(data).sha256)
    _must_match("the runtime", record.kind, kind)
    _must_match("the bundle's model.tensorrt.onnx", record.graph_sha256, graph_sha256)
    return data, record


def check_runtime(record: EngineRecord, version: str, compute_capability: int) -> None:
    """Refuse an engine that a runtime or a GPU does not take.

    Args:
        record: of the engine.
        version: of the runtime; engines load in the version that built them only.
        compute_capability: of the GPU, times ten.

    Raises:
        BundleError: the engine is for another one.
    """
    _must_match(f"the version of {record.kind}", record.versions.get(record.kind), version)
    built_for = record.compute_capabilities
    if built_for and compute_capability not in built_for:
        here = f"--sm {compute_capability}" if record.kind == "tensorrt-rtx" else "on this machine"
        stated = ",".join(str(sm) for sm in built_for)
        _must_match("the GPU", stated, str(compute_capability), f"{_AGAIN} {here}")


def _must_match(
    what: str, recorded: str | None, received: str | None, remedy: str = _AGAIN
) -> None:
    if received is not None and recorded != received:
        raise BundleError(
            f"an engine must match {what}",
            f"an engine for {recorded}, but {received} here",
            remedy,
        )


def _read_record(path: Path) -> EngineRecord:
    again = "build the engine again with this version of lrq-deploy"
    return read_document(path, EngineRecord, (ENGINE_SCHEMA,), _no_record, again)


def _no_record(path: Path, reason: str) -> BundleError:
    return BundleError(
        "an engine must have its record beside it",
        f"{path} ({reason})",
        "build the engine again with lrq-deploy build",
    )
