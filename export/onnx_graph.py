"""From a frozen student to the ONNX graph of a target."""

from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, RemoveUnusedOpsetsPass
from torch import fx

from lrq_deploy import __version__
from lrq_deploy.errors import ExportError
from lrq_deploy.export.neutral import float_graph, neutral_graph
from lrq_deploy.export.targets import Target, targets
from lrq_deploy.student.frozen import QuantizedModel

__all__ = ["ONNX_SCHEMA", "finish", "float_onnx", "save_onnx", "to_onnx"]

ONNX_SCHEMA = 1


def to_onnx(
    model: QuantizedModel, target: str | Target = "onnxruntime", neutral: ir.Model | None = None
) -> onnx.ModelProto:
    """Write the student in the dialect of a target.

    Input ``input`` float32 ``[batch, C, H, W]``, already normalised; output ``logits``
    ``[batch, classes]``. The same student gives the same bytes.

    Args:
        model: the student.
        target: the dialect, or its name.
        neutral: ``neutral_graph(model)``, where several graphs are written from it; stays as it is.

    Raises:
        OptionError: no such target.
        ExportError: the network cannot be stated in the dialect.
    """
    dialect = targets().get(target) if isinstance(target, str) else target
    graph = neutral_graph(model) if neutral is None else neutral.clone()
    dialect.lower(graph)
    properties = {
        "lrq_schema_version": str(ONNX_SCHEMA),
        "lrq_target": dialect.name,
        "lrq_scheme": model.scheme.describe(),
        "lrq_network": model.name,
        "lrq_teacher_fingerprint": model.teacher_fingerprint,
    }
    return finish(graph, properties)


def float_onnx(graph: fx.GraphModule, input_shape: tuple[int, int, int]) -> onnx.ModelProto:
    """The full-precision network with the same input and output, for comparison.

    Raises:
        ExportError: an operator has no ONNX form.
    """
    properties = {"lrq_schema_version": str(ONNX_SCHEMA), "lrq_target": "float"}
    return finish(float_graph(graph, input_shape), properties)


def save_onnx(proto: onnx.ModelProto, path: Path) -> int:
    """Write the graph; returns the size in bytes."""
    # Map fields have no order of their own; without this the bytes differ between runs.
    data = proto.SerializeToString(deterministic=True)
    return path.write_bytes(data)


def finish(model: ir.Model, properties: dict[str, str]) -> onnx.ModelProto:
    """Serialise a lowered graph with its properties, checked.

    Raises:
        ExportError: the graph does not pass ``onnx.checker``.
    """
    RemoveUnusedNodesPass()(model)
    RemoveUnusedOpsetsPass()(model)
    model.producer_name, model.producer_version = "lrq-deploy", __version__
    model.graph.name = properties["lrq_target"]
    model.metadata_props.clear()
    model.metadata_props.update(properties)
    proto = ir.serde.serialize_model(model)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            "the graph must pass onnx.checker",
            str(error).strip().splitlines()[0],
            "this is a fault of lrq-deploy; please report it with the network's name",
        ) from error
    return proto
