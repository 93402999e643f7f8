"""The graph that ONNX Runtime really runs, fused ahead of time for one type of CPU.

Loading it skips the optimiser. Its kernels and layouts are chosen for the CPU that wrote it, so
it carries that CPU's type and the runtime's version, and is refused elsewhere.
"""

import platform
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from lrq_deploy.errors import BundleError
from lrq_deploy.export.bundle.folder import Bundle
from lrq_deploy.export.bundle.manifest import FileRecord
from lrq_deploy.export.bundle.own_graph import own_graph
from lrq_deploy.export.derived.graph_file import require_same_bits, write_graph
from lrq_deploy.export.dialects.onnxruntime import OnnxRuntimeTarget
from lrq_deploy.export.runtime.run import cpu_name
from lrq_deploy.export.runtime.session import Session, open_session

__all__ = ["CpuType", "Preoptimized", "cpu_type", "open_preoptimized", "preoptimize"]

_PREFIX = "lrq_deploy."
_SPEED_FEATURES = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
"""Of x86 and Arm: what the integer kernels of ONNX Runtime choose by."""


@dataclass(frozen=True)
class CpuType:
    """What a pre-optimised graph depends on.

    Attributes:
        machine: instruction set, for instance ``x86_64``.
        features: of the instruction set, those that integer kernels are chosen by.
        name: of the model, for people.
    """

    machine: str
    features: str
    name: str


@dataclass(frozen=True)
class Preoptimized:
    """A written graph.

    Attributes:
        path: of the file.
        cpu: that it is for.
        runtime: version of ONNX Runtime that it is for.
        size_bytes: of the file.
    """

    path: Path
    cpu: CpuType
    runtime: str
    size_bytes: int


def cpu_type(source: Path = Path("/proc/cpuinfo")) -> CpuType:
    """The CPU of this machine; ``features`` is empty where the system does not list them."""
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    flags = {
        flag
        for line in lines
        if line.lower().startswith(("flags", "features"))
        for flag in line.partition(":")[2].split()
    }
    features = " ".join(name for name in _SPEED_FEATURES if name in flags)
    return CpuType(platform.machine(), features, cpu_name(source))


def preoptimize(bundle: Bundle, out: Path, force: bool = False) -> Preoptimized:
    """Write the optimised graph of a bundle for this CPU, marked as such.

    Raises:
        BundleError: ``model.onnx`` is not the bundle's own.
        OutputError: see ``check_output_file``, or the disk refuses.
        ExportError: the written graph does not give the bits of the graph it was made from.
    """
    source = own_graph(bundle, OnnxRuntimeTarget())
    cpu = cpu_type()

    def make(path: Path) -> None:
        reference = open_session(source, optimized=path)
        _mark(path, cpu, FileRecord.of(source.read_bytes()).sha256)
        require_same_bits(reference, open_preoptimized(path), bundle.manifest.input_shape)

    size = write_graph(out, bundle, force, make)
    return Preoptimized(out, cpu, _runtime_version(), size)


def open_preoptimized(path: Path) -> Session:
    """Load a pre-optimised graph on the kind of machine that it was written for.

    Raises:
        BundleError: it is no such graph, or is for another CPU type or runtime version.
        ExportError: the runtime does not accept it.
    """
    found = _marks(path)
    here = cpu_type()
    expected = {
        "machine": here.machine,
        "cpu_features": here.features,
        "onnxruntime": _runtime_version(),
    }
    for name, value in expected.items():
        if found.get(name) != value:
            raise BundleError(
                f"a pre-optimised graph must be for this machine's {name.replace('_', ' ')}",
                f"{found.get(name, 'none')} in {path}; here {value or 'none'}",
                "use model.onnx of the bundle, or pre-optimise it on this machine",
            )
    return open_session(path, level="off")


def _runtime_version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def _mark(path: Path, cpu: CpuType, source_sha256: str) -> None:
    model = onnx.load(path)
    marks = {
        "machine": cpu.machine,
        "cpu_features": cpu.features,
        "cpu": cpu.name,
        "onnxruntime": _runtime_version(),
        "source_sha256": source_sha256,
    }
    for name, value in marks.items():
        model.metadata_props.add(key=f"{_PREFIX}{name}", value=value)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _marks(path: Path) -> dict[str, str]:
    try:
        model = onnx.load(path)
    except (OSError, DecodeError) as error:
        raise BundleError(
            "a pre-optimised graph must be an ONNX file", f"{path}: {error}", "name another file"
        ) from error
    return {
        p.key.removeprefix(_PREFIX): p.value
        for p in model.metadata_props
        if p.key.startswith(_PREFIX)
    }
