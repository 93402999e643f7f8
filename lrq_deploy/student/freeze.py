"""Freeze a trained student into the integers that ship."""

import copy

import torch
from torch import Tensor, fx

from lrq_deploy.graph.called_modules import called_module
from lrq_deploy.graph.on_device import on_device
from lrq_deploy.qparams import QParams, ScaleTable, per_channel
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.absorb import absorb_rectifiers
from lrq_deploy.student.bias_grid import snap_to_grid
from lrq_deploy.student.frozen import FrozenLayer, FrozenQuantizer, QuantizedModel
from lrq_deploy.student.layers import ActQuantizer, QuantizedLayer, channel_scale_shape
from lrq_deploy.student.untie import untie
from lrq_deploy.student.untie_activations import untie_activations
from lrq_deploy.teacher import Teacher

__all__ = ["freeze", "frozen_model"]


def frozen_model(
    student: fx.GraphModule, scheme: Scheme, teacher: Teacher, nudge: bool = True
) -> QuantizedModel:
    """What ships of a student of ``teacher``; ``nudge`` as for ``freeze``."""
    graph, table = freeze(student, nudge)
    return QuantizedModel(
        graph=graph,
        table=table,
        scheme=scheme,
        input_shape=teacher.input_shape,
        num_classes=teacher.num_classes,
        preprocessing=teacher.preprocessing,
        name=teacher.name,
        teacher_fingerprint=teacher.fingerprint,
        task=teacher.task,
    )


def freeze(student: fx.GraphModule, nudge: bool = True) -> tuple[fx.GraphModule, ScaleTable]:
    """Return the frozen graph on the CPU and its scale table; the argument is unchanged.

    Args:
        student: placed and calibrated.
        nudge: move scales off rounding ties (see ``untie``); without it the frozen
            graph gives the bits of the student in evaluation mode on the CPU.
    """
    frozen = on_device(copy.deepcopy(student), torch.device("cpu")).eval()
    entries: dict[str, QParams] = {}
    modules = dict(frozen.named_modules())
    for path, module in modules.items():
        if isinstance(module, ActQuantizer):
            entries[path] = _act_qparams(module)
    if nudge:
        untie_activations(frozen, entries)
    for path, module in modules.items():
        if isinstance(module, ActQuantizer):
            _set(frozen, path, FrozenQuantizer(entries[path]))
    for path, module in modules.items():
        if isinstance(module, QuantizedLayer):
            entries[path] = _weight_qparams(module)
            source = entries[module.input_quantizer]
            _set(frozen, path, _freeze_layer(module, entries[path], source))
    for node in frozen.graph.nodes:
        if isinstance(called_module(frozen, node), FrozenLayer):
            node.args = node.args[:1]
    for node in [n for n in frozen.graph.nodes if n.op == "get_attr" and not n.users]:
        frozen.graph.erase_node(node)
    absorb_rectifiers(frozen)
    frozen.graph.lint()
    frozen.recompile()
    table = ScaleTable(entries)
    return frozen, untie(frozen, table) if nudge else table


def _set(graph_module: fx.GraphModule, path: str, module: torch.nn.Module) -> None:
    owner, _, leaf = path.rpartition(".")
    setattr(graph_module.get_submodule(owner), leaf, module)


def _act_qparams(quantizer: ActQuantizer) -> QParams:
    return QParams(
        kind="activation",
        scale=quantizer.scale.detach().clone(),
        zero_point=torch.tensor(quantizer.zero_point, dtype=torch.int32),
        qmin=quantizer.bounds.qmin,
        qmax=quantizer.bounds.qmax,
        bits=quantizer.bits,
    )


def _weight_qparams(layer: QuantizedLayer) -> QParams:
    scale = layer.scale.detach().clone()
    return QParams(
        kind="weight",
        scale=scale,
        zero_point=torch.zeros(scale.shape, dtype=torch.int32),
        qmin=layer.bounds.qmin,
        qmax=layer.bounds.qmax,
        bits=layer.bits,
        axis=layer.spec.channel_axis,
    )


def _freeze_layer(layer: QuantizedLayer, weight: QParams, act: QParams) -> FrozenLayer:
    scale = per_channel(weight.scale, layer.spec.channel_axis, layer.weight.dim())
    steps = torch.round(layer.weight.detach() / scale)
    integers = torch.clamp(steps, weight.qmin, weight.qmax)
    bias = None if layer.bias is None else _on_grid(layer.bias.detach(), layer, weight, act)
    return FrozenLayer(layer.spec, weight, layer.input_quantizer, integers.to(torch.int8), bias)


def _on_grid(bias: Tensor, layer: QuantizedLayer, weight: QParams, act: QParams) -> Tensor:
    """``bias`` rounded to ``act.scale * weight.scale[c]``, the grid of an int32 bias.

    The step is float32, as a runtime computes it.
    """
    return snap_to_grid(bias, act.scale * channel_scale_shape(weight.scale, layer.spec, bias))
