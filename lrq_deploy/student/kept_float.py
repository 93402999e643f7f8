"""Analysis: which weighted layers stay in float under a scheme."""

from torch import fx

from lrq_deploy.graph.attributes import tensor_of
from lrq_deploy.graph.operators import RECTIFIERS, WEIGHTED, is_call
from lrq_deploy.graph.roles import sources_of
from lrq_deploy.graph.specification import layer_spec
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.weight_only import BLOCK

__all__ = ["FEWEST_CHANNELS", "kept_float"]

FEWEST_CHANNELS = 4
"""Input channels per group that INT8 kernels of GPUs take at once; fewer are padded to it."""


def kept_float(graph_module: fx.GraphModule, scheme: Scheme) -> list[fx.Node]:
    """Layers whose input is no integer.

    * With ``depthwise`` ``float`` convolutions with several groups of fewer than
      ``FEWEST_CHANNELS`` input channels; depthwise convolutions have one.
    * With ``int4_linear`` linear layers whose rows are whole blocks, and whose input no other
      layer writes: an 8-bit quantizer in front of INT4 weights stops TensorRT's builder.
    """
    nodes = [node for node in graph_module.graph.nodes if is_call(node, WEIGHTED)]
    return [
        node
        for node in nodes
        if (scheme.depthwise == "float" and _has_narrow_groups(graph_module, node))
        or (scheme.int4_linear and _has_whole_blocks(graph_module, node))
    ]


def _has_whole_blocks(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    rows = tensor_of(graph_module, node.args[1])
    if layer_spec(node).kind != "linear" or rows.shape[1] % BLOCK:
        return False
    return not any(_is_written_by_a_layer(source) for source in sources_of(node.all_input_nodes[0]))


def _is_written_by_a_layer(tensor: fx.Node) -> bool:
    while is_call(tensor, RECTIFIERS):
        tensor = tensor.all_input_nodes[0]
    return is_call(tensor, WEIGHTED)


def _has_narrow_groups(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    spec = layer_spec(node)
    channels = tensor_of(graph_module, node.args[1]).shape[1]
    return spec.kind == "conv2d" and spec.groups > 1 and channels < FEWEST_CHANNELS
