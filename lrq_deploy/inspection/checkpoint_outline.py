"""Outlines of state dicts and pickled modules, of torch.save and of safetensors."""

import io
import json
import re
import struct
import zipfile
from collections.abc import Mapping

from lrq_deploy.checkpoint.averaged import averaged_weights
from lrq_deploy.checkpoint.class_names import stated_class_names
from lrq_deploy.checkpoint.identify import CheckpointFile
from lrq_deploy.checkpoint.pickle_globals import (
    MAX_PICKLE_BYTES,
    PickleGlobals,
    archive_globals,
    legacy_globals,
)
from lrq_deploy.checkpoint.script_parts import foreign_globals, script_tensors
from lrq_deploy.checkpoint.stated import stated_architectures
from lrq_deploy.checkpoint.weights_place import place_of_weights
from lrq_deploy.checkpoint.zip_damage import ZIP_DAMAGE
from lrq_deploy.errors import CheckpointError
from lrq_deploy.inspection.outline import Outline, TensorOutline
from lrq_deploy.inspection.stand_ins import (
    StandIn,
    is_module,
    module_tensors,
    unpickle_outlines,
)
from lrq_deploy.wording import counted, printable

__all__ = ["outline_safetensors", "outline_script", "outline_torch_file"]

_SHOWN_FACTS = 12
_MANGLED = re.compile(r"___torch_mangle_\d+\.")
_SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


def outline_torch_file(file: CheckpointFile) -> Outline:
    """Outline of a file of ``torch.save``, zip or legacy.

    Raises:
        CheckpointError: damaged, beyond the limits of the reader, or without tensors.
    """
    if file.kind == "torch-zip":
        found = archive_globals(file.path, file.root)
        content, _ = unpickle_outlines(_entry(file, "data.pkl"))
        form, writer = "torch.save archive", _zip_writer(file)
    else:
        found = legacy_globals(file.path)
        content = _legacy_object(file)
        form, writer = "legacy torch.save file", "torch before 1.6, or a later one told to"
    return _outline(content, found, form, writer, file)


def _outline(
    content: object, found: PickleGlobals, form: str, writer: str, file: CheckpointFile
) -> Outline:
    plain = not (found.unsafe or found.inert)
    keys = place_of_weights(content, file.path, is_module, _is_tensor, plain)
    averaged = averaged_weights(content, keys, file.path, is_module, _is_tensor, plain)
    weights = content
    facts: dict[str, str] = {}
    beside: list[str] = []
    for key in keys:
        facts |= _facts_beside(weights, key)
        beside += _tensors_beside(weights, key)
        weights = weights[key]  # type: ignore[index]
    module_class = ""
    if is_module(weights):
        tensors = module_tensors(weights)
        module_class = printable(getattr(weights, "qualified_name", ""), 120)
        description = f"pickled module in a {form}"
    else:
        named = weights if isinstance(weights, Mapping) else {}
        tensors = {n: t for n, t in named.items() if isinstance(n, str) and _is_tensor(t)}
        description = f"state dict in a {form}"
    if "pytorch-lightning_version" in facts:
        writer = f"Lightning {facts.pop('pytorch-lightning_version')}, {writer}"
    return Outline(
        description=description,
        written_by=writer,
        tensors=tensors,
        facts=dict(list(facts.items())[:_SHOWN_FACTS]),
        keys=tuple(keys),
        beside=tuple(beside[:_SHOWN_FACTS]),
        unsafe_globals=tuple(printable(name, 120) for name in found.unsafe),
        plain=plain,
        module_class=module_class,
        stated=stated_architectures(content),
        averaged=averaged,
        class_names=stated_class_names(content) or stated_class_names(weights),
    )


def _is_tensor(value: object) -> bool:
    return isinstance(value, TensorOutline)


def _facts_beside(content: object, chosen: str) -> dict[str, str]:
    """Plain values that a training script saved next to the weights, such as an epoch."""
    if not isinstance(content, Mapping):
        return {}
    return {
        printable(key, 40): printable(value)
        for key, value in content.items()
        if isinstance(key, str) and key != chosen and isinstance(value, (str, int, float))
    }


def _tensors_beside(content: object, chosen: str) -> list[str]:
    """What a training script saved next to the weights and holds tensors: an optimizer, a copy."""
    if not isinstance(content, Mapping):
        return []
    counts = {key: _count_tensors(v) for key, v in content.items() if key != chosen}
    return [
        f"{printable(key, 40)} ({counted(count, 'tensor')})"
        for key, count in counts.items()
        if count
    ]


def _count_tensors(root: object) -> int:
    """Tensors in nested containers; a container of a hostile file may hold itself."""
    count, seen, pending = 0, set(), [root]
    while pending:
        value = pending.pop()
        count += _is_tensor(value)
        if id(value) in seen:
            continue
        seen.add(id(value))
        if is_module(value):
            count += len(module_tensors(value))
        elif isinstance(value, Mapping):
            pending.extend(value.values())
        elif isinstance(value, (list, tuple)):
            pending.extend(value)
    return count


def _entry(file: CheckpointFile, name: str) -> bytes:
    try:
        with zipfile.ZipFile(file.path) as archive:
            return archive.read(f"{file.root}/{name}")
    except ZIP_DAMAGE as error:
        raise CheckpointError(
            "an archive must be intact", f"{file.path}: {error}", "copy or download it again"
        ) from None


def _zip_writer(file: CheckpointFile) -> str:
    """torch does not store its version with weights, but its releases add entries."""
    with zipfile.ZipFile(file.path) as archive:
        names = {name.removeprefix(f"{file.root}/") for name in archive.namelist()}
    if ".storage_alignment" in names:
        return "torch 2.6 or newer"
    if "byteorder" in names:
        return "torch 2.1 or newer"
    return "torch 1.6 or newer"


def _legacy_object(file: CheckpointFile) -> object:
    with file.path.open("rb") as stream:
        data = memoryview(stream.read(MAX_PICKLE_BYTES))
    content: object = None
    for _ in ("magic number", "version", "system", "object"):
        content, length = unpickle_outlines(bytes(data))
        data = data[length:]
    return content


def outline_script(file: CheckpointFile) -> Outline:
    """Outline of a TorchScript archive, from the attributes that it stores; its code is not read.

    Raises:
        CheckpointError: damaged, or beyond the limits of the reader.
    """
    found = archive_globals(file.path, file.root)
    content, _ = unpickle_outlines(_entry(file, "data.pkl"))
    name = str(getattr(content, "qualified_name", ""))
    return Outline(
        description="TorchScript archive",
        written_by=_zip_writer(file),
        tensors=dict(script_tensors(content, _attributes, TensorOutline)),
        unsafe_globals=tuple(printable(name, 120) for name in foreign_globals(found)),
        module_class=printable(_MANGLED.sub("", name.removeprefix("__torch__.")), 120),
    )


def _attributes(part: object) -> Mapping[str, object] | None:
    return part.state if isinstance(part, StandIn) else None


def outline_safetensors(file: CheckpointFile) -> Outline:
    """Outline of a safetensors file, from its header, which ``identify`` has checked.

    Raises:
        CheckpointError: it holds no tensors, or the header is not what the format says.
    """
    with file.path.open("rb") as stream:
        length = int(struct.unpack("<Q", stream.read(8))[0])
        header = json.load(io.BytesIO(stream.read(length)))
    metadata = header.pop("__metadata__", None) or {}
    try:
        tensors = {
            str(name): TensorOutline(
                tuple(int(n) for n in entry["shape"]),
                _SAFETENSORS_DTYPES.get(entry["dtype"], printable(entry["dtype"], 20)),
            )
            for name, entry in header.items()
        }
        facts = {printable(key, 40): printable(value) for key, value in metadata.items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(
            "a safetensors header must give a shape and a dtype for each tensor",
            f"{file.path}: {type(error).__name__}: {printable(error)}",
            "copy or download it again",
        ) from None
    if not tensors:
        raise CheckpointError(
            "a checkpoint must hold named tensors", f"none in {file.path}", "save the weights again"
        )
    producer = facts.get("producer") or facts.get("format")
    writer = f"format {producer!r}" if producer else "not stated"
    return Outline(
        description="state dict in a safetensors file",
        written_by=writer,
        tensors=tensors,
        facts=dict(list(facts.items())[:_SHOWN_FACTS]),
    )
