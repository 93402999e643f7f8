"""Outline of an ONNX file."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from lrq_deploy.errors import CheckpointError
from lrq_deploy.inspection.outline import Outline, TensorOutline, operator_counts
from lrq_deploy.wording import printable, shape_text

if TYPE_CHECKING:
    import onnx

__all__ = ["outline_onnx"]

_NAMES = {"float": "float32", "double": "float64"}


def outline_onnx(path: Path) -> Outline:
    """Outline of a file that ``identify`` takes for ONNX; external data are not looked at.

    Raises:
        CheckpointError: it cannot be parsed.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
        tensors = {
            printable(weight.name, 200): TensorOutline(tuple(weight.dims), _type(weight.data_type))
            for weight in model.graph.initializer
        }
    except (DecodeError, OSError, ValueError) as error:
        raise CheckpointError(
            "an ONNX file must be intact",
            f"{path}: {type(error).__name__}: {printable(error, 200)}",
            "copy or download it again",
        ) from None
    graph = model.graph
    weights = {weight.name for weight in graph.initializer}
    operators = Counter(node.op_type for node in graph.node)
    inputs = [value for value in graph.input if value.name not in weights]
    image = _shape(inputs[0]) if len(inputs) == 1 else ()
    logits = _shape(graph.output[0]) if len(graph.output) == 1 else ()
    return Outline(
        description="ONNX graph" + (", quantized" if _is_quantized(operators) else ""),
        written_by=" ".join(
            printable(part) for part in (model.producer_name, model.producer_version) if part
        )
        or "not stated",
        tensors=tensors,
        facts={
            "ONNX": f"IR {model.ir_version}, opset "
            + ", ".join(_opset(o) for o in model.opset_import),
            "inputs": ", ".join(_value(value) for value in inputs),
            "outputs": ", ".join(_value(value) for value in graph.output),
            "operators": operator_counts(operators),
        }
        | {printable(p.key, 40): printable(p.value) for p in model.metadata_props[:4]},
        input_shape=image if len(image) == 4 else None,
        num_classes=logits[1] if len(logits) == 2 and logits[1] > 0 else None,
    )


def _is_quantized(operators: Counter[str]) -> bool:
    return any(name.startswith(("Quantize", "Dequantize", "QLinear")) for name in operators)


def _opset(entry: "onnx.OperatorSetIdProto") -> str:
    return f"{entry.version}" if not entry.domain else f"{printable(entry.domain)} {entry.version}"


def _type(number: int) -> str:
    import onnx

    if number not in onnx.TensorProto.DataType.values():
        return "unknown"
    name = str(onnx.TensorProto.DataType.Name(number)).lower()
    return _NAMES.get(name, name)


def _shape(value: "onnx.ValueInfoProto") -> tuple[int, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(int(d.dim_value) if d.HasField("dim_value") else -1 for d in dims)


def _value(value: "onnx.ValueInfoProto") -> str:
    kind = _type(value.type.tensor_type.elem_type)
    return f"{printable(value.name)} {kind} {shape_text(_shape(value))}"
