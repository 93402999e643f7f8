"""Pass: turn a folded teacher into a student with quantizers where a runtime has integers.

Requires: a normalised graph without BatchNorm.
Ensures: every weighted layer is a ``QuantizedLayer``, or a ``FloatLayer`` or
``WeightOnlyLayer`` where the scheme keeps its input in float; every tensor that an integer operator
reads, and every result of one except the logits, comes from an ``ActQuantizer`` through data
movement only. A ReLU that an unsigned quantizer repeats is gone.
"""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import fx, nn

from lrq_deploy.graph.attributes import (
    drop_unread_tensors,
    optional_tensor,
    take_name,
    tensor_of,
)
from lrq_deploy.graph.fold_batch_norm import fold_batch_norm
from lrq_deploy.graph.operators import WEIGHTED, arguments, is_call
from lrq_deploy.graph.roles import (
    Role,
    TensorGroup,
    edge_layers,
    multiplies,
    quantized_tensors,
    sources_of,
)
from lrq_deploy.graph.row_forms import flatten_rows
from lrq_deploy.graph.specification import layer_spec
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.frozen import FloatLayer
from lrq_deploy.student.kept_float import kept_float
from lrq_deploy.student.layers import ActQuantizer, QuantizedLayer
from lrq_deploy.student.ranges import non_negative_nodes
from lrq_deploy.student.weight_only import WeightOnlyLayer
from lrq_deploy.target import TargetDescription
from lrq_deploy.teacher import Preprocessing, Teacher

__all__ = ["new_student", "place_quantizers"]

aten = torch.ops.aten

IMAGE_BITS = 8
CURVE_BITS = 8
GAIN_BITS = 8
"""Weights of gains per channel, one byte each, where a step of 4 bits would be a seventh."""


def new_student(teacher: Teacher, scheme: Scheme, target: TargetDescription) -> fx.GraphModule:
    """The student of a teacher, its BatchNorms folded; scales are still to be calibrated."""
    folded = fold_batch_norm(teacher.graph)
    return place_quantizers(folded, scheme, target, teacher.preprocessing)


def place_quantizers(
    folded: fx.GraphModule,
    scheme: Scheme,
    target: TargetDescription,
    preprocessing: Preprocessing,
) -> fx.GraphModule:
    """Return a student; the argument is unchanged. Scales are still to be calibrated."""
    student = copy.deepcopy(folded)
    flatten_rows(student.graph)
    take_name(student, "quantizers", nn.ModuleDict())
    take_name(student, "layers", nn.ModuleDict())
    bounds = preprocessing.bounds() if preprocessing.known else []
    positive = non_negative_nodes(student.graph, bool(bounds) and all(b[0] >= 0 for b in bounds))
    first, last = edge_layers(student.graph)
    floats = kept_float(student, scheme)
    weighted = [n for n in student.graph.nodes if is_call(n, WEIGHTED) and n not in floats]
    for group in quantized_tensors(student.graph, floats):
        signed = not all(node in positive for node in group.nodes)
        bits = _act_bits(group, scheme)
        wide = max(bits, _residual_bits(scheme)) if group.summed else bits
        # What is concatenated with the image shares its quantizer, and has no such limits.
        image = bounds if all(node.op == "placeholder" for node in group.nodes) else []
        path = _insert(student, group, _quantizer(wide, signed, scheme, target, image))
        if wide > bits and group.multiplied:
            make = partial(_quantizer, bits, signed, scheme, target, image)
            _narrow(student, path, list(filter(multiplies, weighted)), make)
    for node in weighted:
        is_edge = node in first or node in last
        bits = scheme.weight_bits if not is_edge else _edge_bits(scheme, scheme.weight_bits)
        _replace_layer(student, node, bits if multiplies(node) else GAIN_BITS, scheme, target)
    for node in floats:
        _keep_float(student, node)
    student.graph.eliminate_dead_code()
    student.graph.lint()
    drop_unread_tensors(student)
    student.recompile()
    return student


def _edge_bits(scheme: Scheme, inner: int) -> int:
    return inner if scheme.edge_bits is None else scheme.edge_bits


def _act_bits(group: TensorGroup, scheme: Scheme) -> int:
    if group.role is Role.IMAGE:
        return IMAGE_BITS
    if group.role is Role.CURVE:
        return CURVE_BITS
    if group.role is Role.EDGE and scheme.edge_bits is not None:
        return scheme.edge_bits
    return scheme.act_bits if group.multiplied else _residual_bits(scheme)


def _residual_bits(scheme: Scheme) -> int:
    return scheme.act_bits if scheme.residual_bits is None else scheme.residual_bits


def _quantizer(
    bits: int,
    signed: bool,
    scheme: Scheme,
    target: TargetDescription,
    bounds: list[tuple[float, float]],
) -> ActQuantizer:
    symmetric = scheme.act_symmetry == "symmetric"
    known: tuple[float, float] | None = None
    if bounds:
        known = min(low for low, _ in bounds), max(high for _, high in bounds)
    integers = target.act_range(bits, signed, symmetric)
    return ActQuantizer(integers, bits, signed, known, target.carrier_qmax)


def _insert(student: fx.GraphModule, group: TensorGroup, quantizer: ActQuantizer) -> str:
    name = group.nodes[0].name
    student.get_submodule("quantizers").add_module(name, quantizer)
    for node in group.nodes:
        readers = list(node.users)
        with student.graph.inserting_after(node):
            call = student.graph.call_module(f"quantizers.{name}", (node,))
        for reader in readers:
            reader.replace_input_with(node, call)
        if is_call(node, {aten.relu.default}) and not quantizer.signed:
            call.args = (node.args[0],)
            student.graph.erase_node(node)
    return f"quantizers.{name}"


def _narrow(
    student: fx.GraphModule, wide: str, layers: list[fx.Node], make: Callable[[], ActQuantizer]
) -> None:
    """Requantize what ``layers`` read of the tensors of ``wide``, behind any data movement.

    The layers then multiply few bits while the sums and poolings keep the wide tensor.
    """
    narrowed: dict[fx.Node, fx.Node] = {}
    for layer in layers:
        tensor = layer.all_input_nodes[0]
        if all(str(source.target) != wide for source in sources_of(tensor)):
            continue
        if tensor not in narrowed:
            name = f"{wide.removeprefix('quantizers.')}_narrow"
            name += str(len(narrowed) + 1) if narrowed else ""
            student.get_submodule("quantizers").add_module(name, make())
            with student.graph.inserting_after(tensor):
                narrowed[tensor] = student.graph.call_module(f"quantizers.{name}", (tensor,))
        layer.replace_input_with(tensor, narrowed[tensor])


def _replace_layer(
    student: fx.GraphModule,
    node: fx.Node,
    bits: int,
    scheme: Scheme,
    target: TargetDescription,
) -> None:
    x, weight, bias, *_ = arguments(node)
    quantizer_path = str(sources_of(x)[0].target)
    quantizer = student.get_submodule(quantizer_path)
    if not isinstance(quantizer, ActQuantizer):
        raise TypeError(f"{quantizer_path} is not an ActQuantizer")
    name = _unused_name(student, node)
    bits = scheme.own_bits(f"layers.{name}") or bits
    layer = QuantizedLayer(
        layer_spec(node),
        tensor_of(student, weight),
        optional_tensor(student, bias),
        target.weight_range(bits, quantizer.bounds),
        bits,
        quantizer_path,
    )
    student.get_submodule("layers").add_module(name, layer)
    with student.graph.inserting_before(node):
        log_scale = student.graph.get_attr(f"{quantizer_path}.log_scale")
        call = student.graph.call_module(f"layers.{name}", (x, log_scale))
    node.replace_all_uses_with(call)
    student.graph.erase_node(node)


def _keep_float(student: fx.GraphModule, node: fx.Node) -> None:
    x, stored, offset, *_ = arguments(node)
    weight, bias = tensor_of(student, stored), optional_tensor(student, offset)
    name = _unused_name(student, node)
    spec = layer_spec(node)
    linear = spec.kind == "linear"
    layer = WeightOnlyLayer.of(weight, bias) if linear else FloatLayer(spec, weight, bias)
    student.get_submodule("layers").add_module(name, layer)
    with student.graph.inserting_before(node):
        call = student.graph.call_module(f"layers.{name}", (x,))
    node.replace_all_uses_with(call)
    student.graph.erase_node(node)


def _unused_name(student: fx.GraphModule, node: fx.Node) -> str:
    """Name for the layer that ``node`` becomes; a layer called twice becomes two."""
    name = str(node.meta.get("layer", node.name)).replace(".", "_")
    while hasattr(student.get_submodule("layers"), name):
        name += "_again"
    return name
