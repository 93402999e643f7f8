"""Size of a trained network, to compare a student's file with."""

from lrq_deploy.graph.attributes import tensor_of
from lrq_deploy.graph.operators import BATCH_NORMS, is_call
from lrq_deploy.teacher import Teacher

__all__ = ["weight_bytes"]

_STATISTICS = slice(3, 5)
"""Arguments of a BatchNorm: mean and variance of the data, which are no weights."""


def weight_bytes(teacher: Teacher) -> int:
    """As float32, each weight once however many layers share it or calls read it."""
    nodes = teacher.graph.graph.nodes
    statistics = {x for n in nodes if is_call(n, BATCH_NORMS) for x in n.args[_STATISTICS]}
    read = [n for n in nodes if n.op == "get_attr" and n not in statistics]
    weights = (x for x in (tensor_of(teacher.graph, n) for n in read) if x.is_floating_point())
    return 4 * sum({x.data_ptr(): x.numel() for x in weights}.values())
