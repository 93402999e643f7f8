"""Facts of a placed student that need no training: layers, quantizers, sizes."""

import math

from torch import fx

from lrq_deploy.graph.called_modules import called_modules
from lrq_deploy.graph.operators import is_movement
from lrq_deploy.graph.specification import LayerSpec
from lrq_deploy.planning.plan import (
    FLOAT_BITS,
    Grouping,
    LayerFacts,
    PlannedQuantizer,
    Sizes,
)
from lrq_deploy.scheme import stored_bits
from lrq_deploy.student.frozen import FloatLayer
from lrq_deploy.student.layer_costs import layer_costs
from lrq_deploy.student.layers import ActQuantizer, QuantizedLayer, set_enabled
from lrq_deploy.student.weight_only import WeightOnlyLayer

__all__ = ["estimate_sizes", "survey_layers", "survey_quantizers"]

_Layer = QuantizedLayer | FloatLayer | WeightOnlyLayer

# Measured on exported graphs: names, attributes and shapes around one weight or one quantizer.
LAYER_BYTES = 1600
QUANTIZER_BYTES = 1000
# Per output channel: the scale of the weights and the bias.
CHANNEL_BYTES = 8


def survey_layers(
    student: fx.GraphModule, input_shape: tuple[int, int, int]
) -> tuple[LayerFacts, ...]:
    """Every weighted layer, with what one image costs it.

    Args:
        student: placed, calibrated or not; its quantizers are off afterwards.
        input_shape: ``(C, H, W)``.
    """
    set_enabled(student, False)
    costs = layer_costs(student, input_shape)
    facts: dict[str, LayerFacts] = {}
    for node in student.graph.nodes:
        path = str(node.target)
        if node.op == "call_module" and path in costs and path not in facts:
            layer = student.get_submodule(path)
            if isinstance(layer, _Layer):
                cost, shape = costs[path], costs[path].weight_shape
                weight_bits, input_bits = _widths(student, layer)
                facts[path] = LayerFacts(
                    name=path.removeprefix("layers."),
                    kind=layer.spec.kind,
                    grouping=_grouping(layer.spec, shape),
                    weight_shape=shape,
                    multiply_adds=cost.multiply_adds,
                    activations=cost.activations,
                    weight_bits=weight_bits,
                    input_bits=input_bits,
                    gives_logits=_gives_logits(node),
                )
    return tuple(facts.values())


def _widths(student: fx.GraphModule, layer: _Layer) -> tuple[int, int]:
    """Bits of the weights and of the input."""
    if isinstance(layer, FloatLayer):
        return FLOAT_BITS, FLOAT_BITS
    if isinstance(layer, WeightOnlyLayer):
        return 4, FLOAT_BITS
    quantizer = student.get_submodule(layer.input_quantizer)
    return layer.bits, quantizer.bits if isinstance(quantizer, ActQuantizer) else FLOAT_BITS


def survey_quantizers(student: fx.GraphModule) -> tuple[PlannedQuantizer, ...]:
    """Every activation quantizer in graph order."""
    return tuple(
        PlannedQuantizer(path.removeprefix("quantizers."), quantizer.bits, quantizer.signed)
        for path, quantizer in called_modules(student, ActQuantizer).items()
    )


def estimate_sizes(layers: tuple[LayerFacts, ...], quantizers: int, float_bytes: int) -> Sizes:
    """Bytes of a student: weights exactly, names and attributes of the graph on average.

    Args:
        layers: product of ``survey_layers``.
        quantizers: how many activations have one.
        float_bytes: product of ``weight_bytes``.
    """
    weights = {layer.name: math.prod(layer.weight_shape) for layer in layers}
    channels = sum(_channels(layer) for layer in layers)
    around = CHANNEL_BYTES * channels + LAYER_BYTES * len(layers) + QUANTIZER_BYTES * quantizers
    stored = sum(weights[x.name] * (4 if x.is_float else 1) for x in layers)
    packed = sum(_packed_bytes(x, weights[x.name]) for x in layers)
    busiest = max((layer.activations for layer in layers), default=0)
    return Sizes(
        float_bytes=float_bytes,
        int8_bytes=stored + around,
        packed_bytes=packed + around,
        memory_bytes=stored + CHANNEL_BYTES * channels + busiest,
    )


def _packed_bytes(layer: LayerFacts, weights: int) -> int:
    if layer.is_float:
        return 4 * weights
    return -(-weights * stored_bits(layer.weight_bits) // 8)


def _grouping(spec: LayerSpec, shape: tuple[int, ...]) -> Grouping:
    if spec.groups == 1:
        return "dense"
    per_group = shape[0] // spec.groups if spec.kind == "conv_transpose2d" else shape[1]
    return "depthwise" if per_group == 1 else "grouped"


def _channels(layer: LayerFacts) -> int:
    return layer.weight_shape[1 if layer.kind == "conv_transpose2d" else 0]


def _gives_logits(node: fx.Node) -> bool:
    """Whether the result reaches the output through data movement only."""
    return any(
        user.op == "output" or (is_movement(user) and _gives_logits(user)) for user in node.users
    )
