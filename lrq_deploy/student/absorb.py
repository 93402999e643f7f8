"""Pass: remove clipping activations that the quantizer behind them repeats.

Requires: a frozen graph.
Ensures: the same integers; no ReLU or ReLU6 is left directly before a quantizer whose own range
clips at least as much. The call of the quantizer has what was removed as ``meta["clip"]``.
"""

import torch
from torch import fx

from lrq_deploy.graph.called_modules import called_module
from lrq_deploy.graph.clipping import clip_limits, narrower
from lrq_deploy.qparams import QParams
from lrq_deploy.student.frozen import FrozenQuantizer

__all__ = ["absorb_rectifiers"]


def absorb_rectifiers(frozen: fx.GraphModule) -> None:
    """Apply the pass in place."""
    for node in list(frozen.graph.nodes):
        module = called_module(frozen, node)
        if not isinstance(module, FrozenQuantizer):
            continue
        source = node.args[0]
        while _repeats(source, module) and len(source.users) == 1:
            limits = clip_limits(source) or (None, None)
            node.meta["clip"] = narrower(node.meta.get("clip", limits), limits)
            node.args = (source.args[0],)
            frozen.graph.erase_node(source)
            source = node.args[0]


def _repeats(node: fx.Node, quantizer: FrozenQuantizer) -> bool:
    limits = clip_limits(node)
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
