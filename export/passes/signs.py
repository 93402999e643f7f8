"""Analysis: which tensors of a float ONNX graph may be negative, and so hide a ReLU behind them."""

from collections.abc import Mapping
from enum import IntEnum

import onnx_ir as ir

from lrq_deploy.export.passes._matching import constant

__all__ = ["Sign", "Signs"]


class Sign(IntEnum):
    """What is known of the values of a tensor; of two inputs the smaller one holds.

    ``DIPS`` is a curve such as SiLU, which no network rectifies. Its few negative values may be
    less than half a step, so that its quantizer has no negative integers of its own accord.
    """

    ANY = 0
    DIPS = 1
    NON_NEGATIVE = 2


_NON_NEGATIVE = frozenset(
    {
        "Abs",
        "Exp",
        "HardSigmoid",
        "ReduceL1",
        "ReduceL2",
        "ReduceSumSquare",
        "Relu",
        "Sigmoid",
        "Softmax",
        "Softplus",
        "Sqrt",
    }
)
_CURVES = frozenset(
    {"Celu", "Elu", "Gelu", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Selu", "Swish"}
)
# The first input decides: values that move, their averages, and functions through 0.
_KEEPING = frozenset(
    {
        "AveragePool",
        "Cast",
        "Clip",
        "DepthToSpace",
        "Dropout",
        "Expand",
        "Flatten",
        "Gather",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "Identity",
        "MaxPool",
        "Pad",
        "Pow",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceSum",
        "Reshape",
        "Resize",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tanh",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
_PRODUCTS = frozenset({"Div", "Mul"})
_SUMS = frozenset({"Add", "MatMul", "Sum"})  # dips may add up to what a network does rectify


class Signs:
    """Signs of the tensors of a graph, learned node by node in the order of the graph.

    Args:
        inputs: signs of the graph's inputs.
    """

    def __init__(self, inputs: Mapping[ir.Value, Sign]) -> None:
        self._known = dict(inputs)

    def of(self, value: ir.Value | None) -> Sign:
        """What is known of a tensor."""
        if value in self._known:
            return self._known[value]
        numbers = constant(value)
        return Sign.ANY if numbers is None or (numbers < 0).any() else Sign.NON_NEGATIVE

    def state(self, value: ir.Value, sign: Sign) -> None:
        """Take in a tensor that no operator of floats makes."""
        self._known[value] = sign

    def learn(self, node: ir.Node) -> None:
        """Take in a node whose inputs are known."""
        sign = self._of_result(node)
        self._known.update(dict.fromkeys(node.outputs, sign))

    def _of_result(self, node: ir.Node) -> Sign:
        kind = node.op_type if node.domain == "" else ""
        if kind in _NON_NEGATIVE or (kind == "Clip" and _at_least_zero(node, 1)):
            return Sign.NON_NEGATIVE
        if kind in _CURVES:
            return max(Sign.DIPS, self.of(node.inputs[0]))
        if kind in _KEEPING:
            return self.of(node.inputs[0]) if _keeps(node) else Sign.ANY
        if kind == "Concat":
            return min(map(self.of, node.inputs))
        if kind in _PRODUCTS:
            return self._of_product(node)
        if kind in _SUMS and all(self.of(x) is Sign.NON_NEGATIVE for x in node.inputs):
            return Sign.NON_NEGATIVE
        return Sign.ANY

    def _of_product(self, node: ir.Node) -> Sign:
        signs = sorted(map(self.of, node.inputs))
        if signs[-1] is not Sign.NON_NEGATIVE:
            return Sign.ANY
        return max(signs[0], Sign.DIPS) if _is_gated_by_itself(node) else signs[0]


def _keeps(node: ir.Node) -> bool:
    """Whether a node of ``_KEEPING`` does so as it is called."""
    if node.op_type == "Resize":
        return _mode(node, "nearest") != "cubic"  # which overshoots
    if node.op_type == "Pad":
        return _mode(node, "constant") != "constant" or _at_least_zero(node, 2, default=True)
    return True


def _mode(node: ir.Node, default: str) -> str:
    return node.attributes["mode"].as_string() if "mode" in node.attributes else default


def _at_least_zero(node: ir.Node, place: int, default: bool = False) -> bool:
    """Whether an input is a constant of no negative numbers; ``default`` where it is left out."""
    value = node.inputs[place] if place < len(node.inputs) else None
    numbers = constant(value)
    return default if value is None else numbers is not None and bool((numbers >= 0).all())


def _is_gated_by_itself(product: ir.Node) -> bool:
    """Whether it is ``x * f(x)`` or ``x * f(c x)``: SiLU, Mish, or the fast form of GELU."""
    if product.op_type != "Mul":
        return False
    return any(_is_gate(gate, x) for x, gate in (product.inputs, product.inputs[::-1]))


def _is_gate(gate: ir.Value | None, x: ir.Value | None) -> bool:
    while gate is not None and gate is not x:
        producer = gate.producer()
        if producer is None or producer.op_type not in ("Mul", "Sigmoid", "Softplus", "Tanh"):
            return False
        gate = next((value for value in producer.inputs if constant(value) is None), None)
    return gate is not None
