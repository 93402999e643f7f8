"""A student whose scales nobody has fitted, to see what files will be made of it."""

import torch
from torch import fx

from lrq_deploy.calibration.observe import read_by_hard_swish
from lrq_deploy.calibration.ranges import full_weight_scale
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.freeze import frozen_model
from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.student.layers import ActQuantizer, QuantizedLayer
from lrq_deploy.teacher import Teacher

__all__ = ["stand_in_model"]


def stand_in_model(student: fx.GraphModule, scheme: Scheme, teacher: Teacher) -> QuantizedModel:
    """Freeze a placed student with the range of each weight and the first scale of each tensor.

    Its graph and its sizes are those of the fitted student or a little larger, its numbers are not.

    Args:
        student: placed; its layers get a scale.
        scheme: that it was placed with.
        teacher: that it was made from.
    """
    for layer in student.modules():
        if isinstance(layer, QuantizedLayer):
            layer.set_scale(full_weight_scale(layer.weight, layer.spec.channel_axis, layer.bounds))
    for path in read_by_hard_swish(student):
        quantizer = student.get_submodule(path)
        if isinstance(quantizer, ActQuantizer):
            # Of the forms of a hard-swish the one that takes the most room, as any fit may need it.
            middle = (quantizer.bounds.qmin + quantizer.bounds.qmax + 1) // 2
            quantizer.set_range(1.0, middle)
    with torch.no_grad():
        return frozen_model(student, scheme, teacher, nudge=False)
