"""``student.safetensors``: integer weights, biases, the scale table and the graph, no code."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from lrq_deploy.errors import BundleError
from lrq_deploy.export.bundle.graph_document import graph_from_json, graph_to_json
from lrq_deploy.graph.specification import LayerSpec
from lrq_deploy.qparams import ScaleTable
from lrq_deploy.scheme import Scheme
from lrq_deploy.stored_schema import check_schema
from lrq_deploy.student.frozen import (
    FloatLayer,
    FrozenLayer,
    FrozenQuantizer,
    QuantizedModel,
)
from lrq_deploy.student.weight_only import WeightOnlyLayer
from lrq_deploy.student.weighted import weight_only_layers
from lrq_deploy.teacher import Preprocessing

__all__ = ["STUDENT_SCHEMA", "check_answers", "read_student", "student_bytes"]

STUDENT_SCHEMA = 3
_READABLE = (1, 2, STUDENT_SCHEMA)  # 1: no widths per layer; 2: all layers quantized
_UNFIT = (
    *(SafetensorError, OSError, LookupError, TypeError, ValueError),
    *(RuntimeError, AttributeError, AssertionError, ArithmeticError),
)
"""What reading and running raise where the parts of a document do not fit together."""
# One key only: safetensors keeps metadata in a hash map whose order differs between runs.
_METADATA_KEY = "lrq_student"


def student_bytes(model: QuantizedModel) -> bytes:
    """Serialise a student; the same student gives the same bytes.

    Tensors: ``NAME.weight_q`` int8 (of layers in float ``NAME.weight`` float32) and ``NAME.bias``
    float32 per layer, ``NAME.scale`` and
    ``NAME.zero_point`` per entry of the scale table, and constants of the graph by path.

    Raises:
        ExportError: the graph holds something that the file cannot state.
    """
    tensors = dict(model.table.tensors())
    for name, layer in model.layers().items():
        tensors[f"{name}.weight_q"] = layer.weight_q
        if layer.bias is not None:
            tensors[f"{name}.bias"] = layer.bias
    for name, kept in model.float_layers().items():
        tensors[f"{name}.weight"] = kept.stored_weight
        if kept.bias is not None:
            tensors[f"{name}.bias"] = kept.bias
    for name, packed in weight_only_layers(model).items():
        tensors[f"{name}.weight_q"] = packed.stored_weight
        tensors[f"{name}.scale_per_block"] = packed.scale_per_block
        if packed.bias is not None:
            tensors[f"{name}.bias"] = packed.bias
    for path in _constant_paths(model):
        tensors[path] = attrgetter(path)(model.graph)
    tensors = {name: tensors[name].detach().cpu().clone().contiguous() for name in sorted(tensors)}
    text = json.dumps(_document(model), sort_keys=True, allow_nan=False)
    return save(tensors, {_METADATA_KEY: text})


def read_student(path: Path) -> QuantizedModel:
    """Rebuild the student of a file that ``student_bytes`` made.

    Raises:
        BundleError: the file is damaged, of another schema, or states a graph that is not allowed.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_METADATA_KEY, "{}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _model(json.loads(text), tensors)
    except BundleError:
        raise
    except _UNFIT as error:
        raise _no_student(path, error) from error


def check_answers(path: Path, model: QuantizedModel) -> None:
    """Let the student of a file answer one image of noise.

    Raises:
        BundleError: it does not give as many finite logits as it has classes.
    """
    # Of a flat image a network that divides by its deviation gives NaN, and is right. Callers may
    # have another type or device for new tensors.
    random = torch.Generator("cpu").manual_seed(0)
    shape = (1, *model.input_shape)
    image = torch.randn(shape, generator=random, dtype=torch.float32, device="cpu")
    try:
        logits = model.logits(image)
        if logits.shape != (1, model.num_classes) or not logits.isfinite().all():
            raise ValueError(f"logits of the shape {list(logits.shape)}, or not finite")
    except _UNFIT as error:
        raise _no_student(path, error) from error


def _no_student(path: Path, error: Exception) -> BundleError:
    reason = next(iter(str(error).splitlines()), "")
    return BundleError(
        "student.safetensors must hold a student of lrq-deploy",
        f"{path} ({type(error).__name__}: {reason[:200]})",
        "get the bundle again from where it was made",
    )


def _document(model: QuantizedModel) -> dict[str, Any]:
    layers = {
        name: {**asdict(layer.spec), "input_quantizer": layer.input_quantizer}
        for name, layer in model.layers().items()
    }
    return {
        "schema_version": STUDENT_SCHEMA,
        "scheme": asdict(model.scheme),
        "input_shape": list(model.input_shape),
        "num_classes": model.num_classes,
        "preprocessing": asdict(model.preprocessing),
        "name": model.name,
        "teacher_fingerprint": model.teacher_fingerprint,
        "task": model.task,
        "table": model.table.to_json(),
        "quantizers": list(model.quantizers()),
        "layers": layers,
        "float_layers": {name: asdict(x.spec) for name, x in model.float_layers().items()},
        "weight_only_layers": list(weight_only_layers(model)),
        "constants": _constant_paths(model),
        "graph": graph_to_json(model.graph.graph),
    }


def _model(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> QuantizedModel:
    check_schema("the student", document.get("schema_version"), _READABLE)
    table = ScaleTable.from_json(document["table"], tensors)
    root = nn.Module()
    for name in document["quantizers"]:
        _place(root, name, FrozenQuantizer(table[name]))
    for name, fields in document["layers"].items():
        _place(root, name, _layer(name, fields, table, tensors))
    for name, fields in document.get("float_layers", {}).items():
        weight, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
        _place(root, name, FloatLayer(_spec(fields), weight, bias))
    for name in document.get("weight_only_layers", ()):
        parts = [tensors[f"{name}.{part}"] for part in ("weight_q", "scale_per_block")]
        _place(root, name, WeightOnlyLayer(parts[0], parts[1], tensors.get(f"{name}.bias")))
    for path in document["constants"]:
        folder, leaf = _folder(root, path)
        folder.register_buffer(leaf, tensors[path])
    preprocessing = dict(document["preprocessing"])
    for key in ("mean", "std"):
        preprocessing[key] = tuple(preprocessing[key])
    channels, height, width = document["input_shape"]
    return QuantizedModel(
        graph=graph_from_json(document["graph"], root),
        table=table,
        scheme=Scheme.from_json(document["scheme"]),
        input_shape=(channels, height, width),
        num_classes=document["num_classes"],
        preprocessing=Preprocessing(**preprocessing),
        name=document["name"],
        teacher_fingerprint=document["teacher_fingerprint"],
        # Bundles of before this was stored hold no other.
        task=document.get("task", "multiclass"),
    )


def _layer(
    name: str, fields: Mapping[str, Any], table: ScaleTable, tensors: Mapping[str, Tensor]
) -> FrozenLayer:
    values = dict(fields)
    quantizer = values.pop("input_quantizer")
    spec = _spec(values)
    weight = tensors[f"{name}.weight_q"]
    if quantizer not in table.entries:
        raise ValueError(f"{name} reads {quantizer}")
    if weight.dtype != torch.int8:
        raise ValueError(f"{name}.weight_q is {weight.dtype}, not int8")
    return FrozenLayer(spec, table[name], quantizer, weight, tensors.get(f"{name}.bias"))


def _spec(fields: Mapping[str, Any]) -> LayerSpec:
    values: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()
    }
    pairs = [v for v in values.values() if not isinstance(v, str | int)]
    if any(len(pair) != 2 or not all(isinstance(n, int) for n in pair) for pair in pairs):
        raise ValueError(f"a layer of {values}")
    return LayerSpec(**values)


def _constant_paths(model: QuantizedModel) -> list[str]:
    nodes = model.graph.graph.nodes
    return sorted({str(node.target) for node in nodes if node.op == "get_attr"})


def _folder(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The module that holds ``path``, made where it is missing, and the last name."""
    *parents, leaf = path.split(".")
    for parent in parents:
        if parent not in dict(root.named_children()):
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    return root, leaf


def _place(root: nn.Module, path: str, module: nn.Module) -> None:
    folder, leaf = _folder(root, path)
    folder.add_module(leaf, module)
