"""The neutral graph: ONNX operators of the network plus two operators of our own.

Every dialect is lowered from it. In the domain ``lrq``, version 1:

* ``QuantizeDequantize(x)`` with the attributes ``name``, ``scale``, ``zero_point``, ``qmin``,
  ``qmax`` (see ``lrq_deploy.student.operators``), ``low``, ``high``: the integers that may
  really occur, within ``qmin..qmax``, and ``clip_low``, ``clip_high``, where it stands for the
  clips in front of it as well (see ``lrq_deploy.student.absorb``);
* ``DequantizeWeight(weight_q, weight_scale)`` with ``name``, ``axis`` and the attributes of the
  quantizer that feeds the layer: ``input_scale``, ``input_zero_point``, ``input_qmin``,
  ``input_qmax``;
* ``DequantizeInt4Weight(weight_q, scale_per_block)`` with ``name`` and ``block``, of a layer
  whose input is float.
"""

import copy
import warnings
from collections.abc import Mapping

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, fx, nn

from lrq_deploy.errors import ExportError
from lrq_deploy.export.missing_form import describe_failure
from lrq_deploy.graph.attributes import take_name
from lrq_deploy.graph.clipping import Limits
from lrq_deploy.qparams import QParams, ScaleTable
from lrq_deploy.student.frozen import FrozenLayer, QuantizedModel
from lrq_deploy.student.weight_only import BLOCK, WeightOnlyLayer
from lrq_deploy.student.weighted import weight_only_layers

__all__ = ["DOMAIN", "INT4_WEIGHT", "OPSET", "QUANTIZE", "WEIGHT", "float_graph", "neutral_graph"]

DOMAIN = "lrq"
OPSET = 21  # the first with INT4 tensors; ONNX Runtime 1.24 and TensorRT 10.3 read it
QUANTIZE = "QuantizeDequantize"
WEIGHT = "DequantizeWeight"
INT4_WEIGHT = "DequantizeInt4Weight"


class _QuantizeMarker(nn.Module):
    """Stands for a quantizer while the graph is exported."""

    def __init__(self, name: str, qparams: QParams, clip: Limits) -> None:
        super().__init__()
        zero_point = int(qparams.zero_point)
        self._attributes: dict[str, int | float | str] = {
            "name": name,
            "scale": float(qparams.scale),
            "zero_point": zero_point,
            "qmin": qparams.qmin,
            "qmax": qparams.qmax,
            "low": qparams.qmin,
            "high": qparams.qmax,
        }
        ends = zip(("clip_low", "clip_high"), clip, strict=True)
        self._attributes.update({end: limit for end, limit in ends if limit is not None})

    def forward(self, x: Tensor) -> Tensor:
        return _symbolic(QUANTIZE, (x,), self._attributes, x.shape)


class _LayerMarker(nn.Module):
    """Stands for a weighted layer: the weight as a marker, the operator as it is."""

    weight_q: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(self, name: str, layer: FrozenLayer, source: QParams) -> None:
        super().__init__()
        self._spec = layer.spec
        self._attributes: dict[str, int | float | str] = {
            "name": name,
            "axis": layer.spec.channel_axis,
            "input_scale": float(source.scale),
            "input_zero_point": int(source.zero_point),
            "input_qmin": source.qmin,
            "input_qmax": source.qmax,
        }
        self.register_buffer("weight_q", layer.weight_q)
        self.register_buffer("weight_scale", layer.weight_scale)
        self.register_buffer("bias", layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        inputs = (self.weight_q, self.weight_scale)
        weight = _symbolic(WEIGHT, inputs, self._attributes, self.weight_q.shape)
        return self._spec.apply(x, weight, self.bias)


class _WeightOnlyMarker(nn.Module):
    """Stands for a layer of INT4 weights and float activations."""

    def __init__(self, name: str, layer: WeightOnlyLayer) -> None:
        super().__init__()
        self._layer = layer
        self._attributes: dict[str, int | float | str] = {"name": name, "block": BLOCK}

    def forward(self, x: Tensor) -> Tensor:
        layer = self._layer
        inputs = (layer.stored_weight, layer.scale_per_block)
        weight = _symbolic(INT4_WEIGHT, inputs, self._attributes, layer.stored_weight.shape)
        return layer.spec.apply(x, weight, layer.bias)


def _symbolic(
    op_type: str,
    inputs: tuple[Tensor, ...],
    attributes: Mapping[str, int | float | str],
    shape: torch.Size,
) -> Tensor:
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{op_type}",
        inputs,
        dict(attributes),
        dtype=torch.float32,
        shape=shape,
        version=1,
    )


def neutral_graph(model: QuantizedModel) -> ir.Model:
    """The student as an ONNX graph that no dialect has touched yet.

    Input ``input`` float32 ``[batch, C, H, W]``, output ``logits`` ``[batch, classes]``,
    dynamic batch.

    Raises:
        ExportError: an operator has no ONNX form.
    """
    graph = copy.deepcopy(model.graph)
    for name, quantizer in model.quantizers().items():
        graph.set_submodule(name, _QuantizeMarker(name, quantizer.qparams, _clip(graph, name)))
    for name, layer in model.layers().items():
        source = _input_qparams(model.table, name, layer)
        graph.set_submodule(name, _LayerMarker(name, layer, source))
    for name, packed in weight_only_layers(model).items():
        graph.set_submodule(name, _WeightOnlyMarker(name, packed))
    return _export(graph, model.input_shape)


def float_graph(graph: fx.GraphModule, input_shape: tuple[int, int, int]) -> ir.Model:
    """A full-precision ATen graph as ONNX, with the same input and output names.

    Raises:
        ExportError: an operator has no ONNX form.
    """
    return _export(copy.deepcopy(graph), input_shape)


def _clip(graph: fx.GraphModule, quantizer: str) -> Limits:
    """The limits that all calls of a quantizer stand for."""
    calls = [n for n in graph.graph.nodes if n.op == "call_module" and n.target == quantizer]
    found = {call.meta.get("clip", (None, None)) for call in calls}
    return found.pop() if len(found) == 1 else (None, None)


def _input_qparams(table: ScaleTable, name: str, layer: FrozenLayer) -> QParams:
    try:
        return table[layer.input_quantizer]
    except KeyError:
        raise ExportError(
            f"the input quantizer of {name} must be in the scale table",
            repr(layer.input_quantizer),
            "this is a fault of lrq-deploy; please report it with the network's name",
        ) from None


def _keep_names_apart(graph: fx.GraphModule) -> None:
    """Give stored tensors names with a dot, which no computed value has.

    The exporter of torch 2.15 states the wrong shapes where both have one name, and ONNX Runtime
    fuses by them.
    """
    own = {"recurse": False, "remove_duplicate": False}
    tensors = dict([*graph.named_parameters("", **own), *graph.named_buffers("", **own)])
    stored = nn.Module()
    for name, value in tensors.items():
        stored.register_buffer(name, value)
        delattr(graph, name)
    take_name(graph, "stored", stored)
    for node in graph.graph.nodes:
        if node.op == "get_attr" and node.target in tensors:
            node.target = f"stored.{node.target}"
    graph.recompile()


def _export(graph: fx.GraphModule, input_shape: tuple[int, int, int]) -> ir.Model:
    _keep_names_apart(graph)
    # Batch 2: torch.export specialises a dimension of size 0 or 1.
    example = torch.zeros(2, *input_shape)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph.cpu().eval(),
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["input"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(
            "every operator of the network must have an ONNX form",
            describe_failure(error, graph),
            "replace the operator in the network, or report it with the network's name",
        ) from error
    if program is None:
        raise ExportError("torch.onnx.export must return a program", "nothing", "report this")
    model = program.model
    # Stack traces carry paths of this machine, which would make the bytes differ elsewhere.
    ClearMetadataAndDocStringPass()(model)
    return model
