"""Options of a scheme that keep layers in float, and find none to keep."""

from torch import fx

from lrq_deploy.scheme import Scheme
from lrq_deploy.student.frozen import FloatLayer
from lrq_deploy.student.weight_only import BLOCK, WeightOnlyLayer

__all__ = ["idle_options"]


def idle_options(student: fx.GraphModule, scheme: Scheme) -> tuple[str, ...]:
    """A sentence per option that changed no layer of a placed student."""
    layers = list(student.modules())
    idle = []
    if scheme.depthwise == "float" and not any(isinstance(x, FloatLayer) for x in layers):
        idle.append(
            "--depthwise float changes no layer: it is for convolutions with several groups of "
            "fewer than 4 input channels"
        )
    if scheme.int4_linear and not any(isinstance(x, WeightOnlyLayer) for x in layers):
        idle.append(
            "--int4-linear changes no layer: it is for linear layers whose rows are a multiple of "
            f"{BLOCK} long and whose input no other layer writes"
        )
    return tuple(idle)
