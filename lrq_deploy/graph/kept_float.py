"""Analysis: which weighted layers stay in float under a scheme."""

from torch import fx

from lrq_deploy.graph.attributes import tensor_of
from lrq_deploy.graph.operators import WEIGHTED, is_call
from lrq_deploy.graph.specification import layer_spec
from lrq_deploy.scheme import Scheme

__all__ = ["FEWEST_CHANNELS", "kept_float"]

FEWEST_CHANNELS = 4
"""Input channels per group that INT8 kernels of GPUs take at once; fewer are padded to it."""


def kept_float(graph_module: fx.GraphModule, scheme: Scheme) -> list[fx.Node]:
    """Convolutions with several groups of fewer than ``FEWEST_CHANNELS`` input channels.

    None of them where ``scheme.depthwise`` is ``int8``. Depthwise convolutions have one channel.
    """
    if scheme.depthwise == "int8":
        return []
    nodes = [node for node in graph_module.graph.nodes if is_call(node, WEIGHTED)]
    return [node for node in nodes if _has_narrow_groups(graph_module, node)]


def _has_narrow_groups(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    spec = layer_spec(node)
    channels = tensor_of(graph_module, node.args[1]).shape[1]
    return spec.kind == "conv2d" and spec.groups > 1 and channels < FEWEST_CHANNELS
