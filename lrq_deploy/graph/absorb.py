"""Pass: remove clipping activations that the quantizer behind them repeats.

Requires: a frozen graph.
Ensures: the same integers; no ReLU or ReLU6 is left directly before a quantizer whose own range
clips at least as much.
"""

import torch
from torch import fx

from lrq_deploy.graph.operators import is_call
from lrq_deploy.qparams import QParams
from lrq_deploy.student.frozen import FrozenQuantizer

__all__ = ["absorb_rectifiers"]

aten = torch.ops.aten


def absorb_rectifiers(frozen: fx.GraphModule) -> None:
    """Apply the pass in place."""
    for node in list(frozen.graph.nodes):
        module = _quantizer(frozen, node)
        if module is None:
            continue
        source = node.args[0]
        while _repeats(source, module) and len(source.users) == 1:
            node.args = (source.args[0],)
            frozen.graph.erase_node(source)
            source = node.args[0]


def _quantizer(frozen: fx.GraphModule, node: fx.Node) -> FrozenQuantizer | None:
    if node.op != "call_module":
        return None
    module = frozen.get_submodule(str(node.target))
    return module if isinstance(module, FrozenQuantizer) else None


def _repeats(node: fx.Node, quantizer: FrozenQuantizer) -> bool:
    limits = _limits(node)
    if limits is None:
        return False
    low, high = limits
    qparams = quantizer.qparams
    covers_low = low is None or _integer(low, qparams) <= qparams.qmin
    covers_high = high is None or _integer(high, qparams) >= qparams.qmax
    return covers_low and covers_high


def _integer(real: float, qparams: QParams) -> int:
    """Unclipped integer of a limit, in float32 as a runtime rounds it."""
    return int(torch.round(torch.tensor(real) / qparams.scale)) + int(qparams.zero_point)


def _limits(node: fx.Node) -> tuple[float | None, float | None] | None:
    """Clip limits ``(low, high)`` of a rectifier; ``None`` where the node is none."""
    if is_call(node, {aten.relu.default}):
        return 0.0, None
    if is_call(node, {aten.relu6.default}):
        return 0.0, 6.0
    if is_call(node, {aten.clamp_max.default}):
        return None, _number(node.args[1])
    if is_call(node, {aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default}):
        default = (-1.0, 1.0) if node.target is aten.hardtanh.default else (None, None)
        low, high = [*node.args[1:], *default[len(node.args) - 1 :]][:2]
        return _number(low), _number(high)
    return None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
