"""``model.onnx`` again, in what an older ONNX Runtime knows: larger or slower, the same bits."""

from dataclasses import dataclass
from pathlib import Path

import onnx

from lrq_deploy.export.bundle.folder import Bundle
from lrq_deploy.export.bundle.output_file import check_output_file
from lrq_deploy.export.bundle.own_graph import own_graph
from lrq_deploy.export.derived.graph_file import require_same_bits, write_graph
from lrq_deploy.export.dialects.onnxruntime import OnnxRuntimeTarget
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.export.runtime.session import open_session
from lrq_deploy.export.runtime.version import RuntimeVersion, needed_version, version_text

__all__ = ["RuntimeGraph", "graph_for_runtime", "write_for_runtime"]


@dataclass(frozen=True)
class RuntimeGraph:
    """A written graph.

    Attributes:
        path: of the file.
        needs_onnxruntime: the oldest version that runs it.
        size_bytes: of the file.
    """

    path: Path
    needs_onnxruntime: str
    size_bytes: int


def write_for_runtime(
    bundle: Bundle, version: RuntimeVersion, out: Path, force: bool = False
) -> RuntimeGraph:
    """Write a bundle's graph for devices with an ONNX Runtime of ``version`` or later.

    Raises:
        OptionError: a layer has no form that the version knows.
        BundleError: ``model.onnx`` is not the bundle's own.
        OutputError: see ``check_output_file``, or the disk refuses.
        ExportError: the written graph does not give the bits of ``model.onnx``.
    """
    check_output_file(out, bundle, force)  # the conversion takes seconds
    graph = graph_for_runtime(bundle, version)
    size = write_graph(out, bundle, force, lambda path: path.write_bytes(graph))
    needed = needed_version(onnx.load_model_from_string(graph).graph)
    return RuntimeGraph(out, version_text(needed), size)


def graph_for_runtime(bundle: Bundle, version: RuntimeVersion) -> bytes:
    """A bundle's graph, serialised, for devices with an ONNX Runtime of ``version`` or later.

    Raises:
        OptionError: a layer has no form that the version knows.
        BundleError: ``model.onnx`` is not the bundle's own.
        ExportError: the graph does not give the bits of ``model.onnx``.
    """
    target = OnnxRuntimeTarget(version)
    model = bundle.model()
    target.check(model.scheme)
    graph: bytes = to_onnx(model, target).SerializeToString(deterministic=True)
    shipped = open_session(own_graph(bundle, target))
    require_same_bits(shipped, open_session(graph), model.input_shape)
    return graph
