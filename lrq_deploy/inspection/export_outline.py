"""Outline of a ``torch.export`` archive, from its JSON; no graph is deserialized."""

import io
import json
import zipfile
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from lrq_deploy.checkpoint.export_document import check_document
from lrq_deploy.checkpoint.identify import CheckpointFile
from lrq_deploy.checkpoint.pickle_globals import archive_globals
from lrq_deploy.checkpoint.zip_damage import ZIP_DAMAGE
from lrq_deploy.errors import CheckpointError
from lrq_deploy.inspection.outline import Outline, TensorOutline, operator_counts
from lrq_deploy.wording import printable, shape_text

__all__ = ["outline_export_archive"]

# torch._export.serde.schema.ScalarType
_DTYPES: Final = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    12: "bool",
    13: "bfloat16",
}


def outline_export_archive(file: CheckpointFile) -> Outline:
    """Outline of what ``torch.export.save`` wrote.

    Raises:
        CheckpointError: damaged, or not laid out as an exported program.
    """
    try:
        with zipfile.ZipFile(file.path) as archive:
            program = _program(archive, file)
            unsafe = _unsafe(archive, file, program)
        return _outline(program, unsafe)
    except ZIP_DAMAGE as error:
        raise _damaged(file, error) from None
    except (ArithmeticError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _damaged(file, error) from None


def _damaged(file: CheckpointFile, error: Exception) -> CheckpointError:
    return CheckpointError(
        "a torch.export archive must be intact and hold one exported program",
        f"{file.path}: {type(error).__name__}: {printable(error, 200)}",
        "copy it again, or export the network again with "
        "torch.export.save(torch.export.export(...), path)",
    )


def _program(archive: zipfile.ZipFile, file: CheckpointFile) -> dict[str, Any]:
    prefix = f"{file.root}/" if file.root else ""
    names = [name.removeprefix(prefix) for name in archive.namelist()]
    models = [n for n in names if n.startswith("models/") and n.endswith(".json")]
    models += [n for n in names if n == "serialized_exported_program.json"]
    if len(models) != 1:
        raise ValueError(f"{len(models)} programs in one archive")
    document = json.loads(archive.read(prefix + models[0]))
    if not isinstance(document, dict):
        raise ValueError("a program that is no mapping")
    return document


def _unsafe(
    archive: zipfile.ZipFile, file: CheckpointFile, program: dict[str, Any]
) -> tuple[str, ...]:
    """What ``quantize`` refuses to load; sample inputs count not, as it drops them unread."""
    found: list[str] = []
    problem = check_document(program)
    if problem:
        found.append(printable(problem, 120))
    prefix = f"{file.root}/" if file.root else ""
    for name in archive.namelist():
        inner = name.removeprefix(prefix)
        if not inner.endswith(".pt") or inner.startswith("data/sample_inputs/"):
            continue
        data = archive.read(name)
        if inner != "serialized_example_inputs.pt" and data.startswith(b"PK\x03\x04"):
            found += [printable(n, 120) for n in archive_globals(io.BytesIO(data)).not_tensors]
    return tuple(found)


def _outline(program: dict[str, Any], unsafe: tuple[str, ...]) -> Outline:
    graph = program["graph_module"]["graph"]
    signature = program["graph_module"]["signature"]
    values = {
        name: TensorOutline(_sizes(value["sizes"]), _DTYPES.get(value["dtype"], "unknown"))
        for name, value in graph["tensor_values"].items()
    }
    tensors = {
        name: values[argument]
        for name, argument in _stored(signature["input_specs"])
        if argument in values
    }
    inputs = list(_user_values(signature["input_specs"], "user_input", values))
    outputs = list(_user_values(signature["output_specs"], "user_output", values))
    operators = Counter(_operator(node["target"]) for node in graph["nodes"])
    version = program.get("schema_version", {})
    image = inputs[0].shape if len(inputs) == 1 and len(inputs[0].shape) == 4 else None
    logits = outputs[0].shape if len(outputs) == 1 and len(outputs[0].shape) == 2 else (-1,)
    return Outline(
        description="torch.export archive",
        written_by=f"torch {printable(program.get('torch_version', 'of unknown version'))}",
        tensors=tensors,
        facts={
            "schema": printable(f"{version.get('major')}.{version.get('minor')}"),
            "inputs": ", ".join(_text(value) for value in inputs),
            "outputs": ", ".join(_text(value) for value in outputs),
            "operators": operator_counts(operators),
        },
        unsafe_globals=unsafe,
        input_shape=image,
        num_classes=logits[-1] if logits[-1] > 0 else None,
        training=_in_training(graph["nodes"]),
    )


def _stored(specs: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Name in the state dict and name in the graph of each parameter and buffer."""
    for spec in specs:
        for kind in ("parameter", "buffer"):
            if kind in spec:
                yield printable(spec[kind][f"{kind}_name"], 200), spec[kind]["arg"]["name"]


def _user_values(
    specs: list[dict[str, Any]], kind: str, values: dict[str, TensorOutline]
) -> Iterator[TensorOutline]:
    for spec in specs:
        argument = spec.get(kind, {}).get("arg", {}).get("as_tensor", {})
        if argument.get("name") in values:
            yield values[argument["name"]]


def _sizes(sizes: list[dict[str, Any]]) -> tuple[int, ...]:
    return tuple(int(size.get("as_int", -1)) for size in sizes)


def _text(value: TensorOutline) -> str:
    return f"{value.dtype} {shape_text(value.shape)}"


def _operator(target: object) -> str:
    name = printable(target).removeprefix("torch.ops.").removesuffix(".default")
    return name.removeprefix("aten.")


def _in_training(nodes: list[dict[str, Any]]) -> str:
    """First BatchNorm that follows the batch, or dropout that drops, with its argument."""
    for node in nodes:
        name = _operator(node["target"])
        values = {given["name"]: given["arg"] for given in node["inputs"]}
        switch = next((key for key in ("training", "train") if key in values), "")
        if not (switch and values[switch].get("as_bool")):
            continue
        stored = "as_tensor" in values.get("running_var", {})
        if ("batch_norm" in name and stored) or ("dropout" in name and _drops(values)):
            return f"{name} with {switch}=True"
    return ""


def _drops(values: dict[str, Any]) -> bool:
    return bool(values.get("p", {}).get("as_float", 0))
