"""Small readers and writers of ``onnx_ir`` graphs that the passes share."""

import itertools
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lrq_deploy.errors import ExportError
from lrq_deploy.export.neutral import DOMAIN, INT4_WEIGHT, QUANTIZE, WEIGHT

__all__ = [
    "add_initializer",
    "constant",
    "float_attribute",
    "int_attribute",
    "is_int4_weight",
    "is_quantizer",
    "is_weight",
    "made_by",
    "require_lowered",
    "stated_name",
    "typed",
    "unused_name",
    "weight_arrays",
]


def is_quantizer(node: ir.Node | None) -> bool:
    """Whether the node is a neutral activation quantizer."""
    return node is not None and node.domain == DOMAIN and node.op_type == QUANTIZE


def require_lowered(model: ir.Model) -> None:
    """The precondition of passes over stored integers.

    Raises:
        ir.passes.PreconditionError: a neutral activation quantizer is left.
    """
    if any(is_quantizer(node) for node in model.graph):
        raise ir.passes.PreconditionError("quantizers must be lowered first")


def is_weight(node: ir.Node | None) -> bool:
    """Whether the node is a neutral weight."""
    return node is not None and node.domain == DOMAIN and node.op_type == WEIGHT


def is_int4_weight(node: ir.Node | None) -> bool:
    """Whether the node is a neutral weight of a layer whose input is float."""
    return node is not None and node.domain == DOMAIN and node.op_type == INT4_WEIGHT


def made_by(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that computes ``value``, where it is of that type."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type else None


def int_attribute(node: ir.Node, name: str) -> int:
    """Value of an integer attribute that the node must have."""
    return node.attributes[name].as_int()


def float_attribute(node: ir.Node, name: str) -> float:
    """Value of a float attribute that the node must have."""
    return node.attributes[name].as_float()


def stated_name(node: ir.Node) -> str:
    """Of the quantizer or weight that a neutral node stands for, its key in the scale table."""
    return node.attributes["name"].as_string()


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The numbers of an initializer, or None where the value is computed or absent."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def weight_arrays(weight: ir.Node) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Integers and scales of a neutral weight.

    Raises:
        ExportError: they are computed.
    """
    integers, scales = (constant(value) for value in weight.inputs[:2])
    if integers is None or scales is None:
        raise ExportError(
            "weights must be constants",
            stated_name(weight),
            "this is a fault of lrq-deploy; please report it with the network's name",
        )
    return integers.astype(np.int8, copy=False), scales


def add_initializer(
    graph: ir.Graph, name: str, array: NDArray[Any], dtype: ir.DataType | None = None
) -> ir.Value:
    """Register a constant, or reuse the one of that name.

    Args:
        graph: receives it.
        name: states what it is, so that equal names mean equal numbers.
        array: the numbers.
        dtype: needed for types that numpy does not have.
    """
    if name in graph.initializers:
        return graph.initializers[name]
    tensor = ir.Tensor(array, dtype=dtype, name=name)
    value = ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def typed(
    value: ir.Value, name: str, shape: ir.Shape | None, kind: ir.DataType = ir.DataType.FLOAT
) -> ir.Value:
    """``value``, the result of a new node, with its name, shape and type."""
    value.name, value.shape, value.type = name, shape, ir.TensorType(kind)
    return value


def unused_name(graph: ir.Graph, name: str) -> str:
    """``name``, or ``name.1``, ``name.2`` where a shared quantizer is called several times."""
    taken = {output.name for node in graph for output in node.outputs}
    candidates = (name if i == 0 else f"{name}.{i}" for i in itertools.count())
    return next(candidate for candidate in candidates if candidate not in taken)
