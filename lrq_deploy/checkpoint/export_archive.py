"""Reading a ``torch.export`` archive without running code from it.

``torch.export.load`` is not safe on a foreign file. As of torch 2.15 it unpickles sample inputs
and pickled constants without restriction, evaluates size expressions as Python through sympy,
imports modules that an input structure names and loads compiled libraries, and the program's
module executes guard strings. So the archive is read here, checked, and handed over as a
rewritten copy in memory without what is not needed.
"""

import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

import torch
from torch.export import ExportedProgram

from lrq_deploy.checkpoint.export_document import check_document
from lrq_deploy.checkpoint.identify import CheckpointFile
from lrq_deploy.checkpoint.pickle_globals import archive_globals
from lrq_deploy.checkpoint.read import check_finite
from lrq_deploy.checkpoint.zip_damage import ZIP_DAMAGE
from lrq_deploy.errors import CheckpointError

__all__ = ["read_export_archive"]

_EXPORT_AGAIN = "export the network again with torch.export.save(torch.export.export(...), path)"
_NOT_NEEDED = ("data/sample_inputs/", "extra/", "extra_files/")
_PLAIN_ENTRY = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/\w+|\.format_version"
    r"|\.storage_alignment|data/(?:weights/weight|constants/tensor)_\d+"
)
_CPU = {"type": "cpu", "index": None}


def read_export_archive(file: CheckpointFile, trust_pickle: bool = False) -> ExportedProgram:
    """Load the program of an archive written by ``torch.export.save``.

    Guards and sample inputs are dropped, and every device becomes the CPU.

    Args:
        file: what ``identify`` said of it.
        trust_pickle: load the file as it is, with all the code that it may run.

    Raises:
        CheckpointError: damaged; made by another version; not float32; NaN or infinite
            values; or it asks for code and is not trusted.
    """
    source = io.BytesIO(file.path.read_bytes() if trust_pickle else _rewritten(file))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(source)
    # Deserialization raises nearly any type on a damaged or foreign graph.
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no message"]
        raise CheckpointError(
            f"a torch.export archive must load with torch {torch.__version__}",
            f"{file.path}: {type(error).__name__}: {lines[-1][:200]}",
            _EXPORT_AGAIN + " with this version",
        ) from error
    _check_tensors(program, file)
    return program


def _rewritten(file: CheckpointFile) -> bytes:
    prefix = f"{file.root}/" if file.root else ""
    target = io.BytesIO()
    try:
        with zipfile.ZipFile(file.path) as archive, zipfile.ZipFile(target, "w") as copy:
            for entry in archive.infolist():
                name = entry.filename.removeprefix(prefix)
                copy.writestr(entry.filename, _checked(name, archive.read(entry), file))
    except ZIP_DAMAGE as error:
        raise CheckpointError(
            "an archive must be intact", f"{file.path}: {error}", "copy or download it again"
        ) from error
    return target.getvalue()


def _checked(name: str, data: bytes, file: CheckpointFile) -> bytes:
    """Content of one entry as it may be loaded; an entry that is not understood is refused.

    Names are compared without case because PyTorch's zip reader finds them that way.
    """
    lower = name.casefold()
    if lower.startswith(_NOT_NEEDED) or lower == "serialized_example_inputs.pt":
        return b""
    if lower.startswith("models/") or lower.endswith(".json"):
        return _checked_json(name, data, file)
    if lower.endswith(".pt") and data.startswith(b"PK\x03\x04"):
        _check_pickle(name, data, file)
        return data
    if not _PLAIN_ENTRY.fullmatch(lower):
        raise _unsafe(file, f"the entry {name[:100]!r}, which may hold code")
    return data


def _check_pickle(name: str, data: bytes, file: CheckpointFile) -> None:
    found = archive_globals(io.BytesIO(data))
    if found.not_tensors:
        raise _unsafe(file, f"{name} that wants to import {', '.join(found.not_tensors[:10])}")


def _checked_json(name: str, data: bytes, file: CheckpointFile) -> bytes:
    try:
        document = json.loads(data)
        problem = check_document(document)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            "a torch.export archive must hold valid JSON",
            f"{name} in {file.path}: {str(error)[:200]}",
            _EXPORT_AGAIN,
        ) from error
    if problem:
        raise _unsafe(file, f"{problem} in {name}")
    for inner in _mappings(document):
        if inner.get("use_pickle"):
            raise _unsafe(file, f"a pickled tensor in {name}")
        for key in ("device", "as_device"):
            if isinstance(inner.get(key), dict):
                inner[key] = dict(_CPU)
    if isinstance(document, dict) and "guards_code" in document:
        document["guards_code"] = []
    return json.dumps(document).encode()


def _mappings(document: Any) -> Iterator[dict[str, Any]]:
    pending = [document]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield value
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)


def _unsafe(file: CheckpointFile, what: str) -> CheckpointError:
    return CheckpointError(
        "a torch.export archive must hold only tensors and known operators unless its code is "
        "trusted",
        f"{file.path} with {what}",
        "export the plain float network again, or, if you trust whoever made this file, pass "
        "--trust-pickle to run its code",
    )


def _check_tensors(program: ExportedProgram, file: CheckpointFile) -> None:
    tensors = {**program.state_dict, **program.constants}
    named = {name: value for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    other = [
        f"{name} ({value.dtype})"
        for name, value in named.items()
        if value.is_floating_point() and value.dtype != torch.float32
    ]
    if other:
        raise CheckpointError(
            "a torch.export archive must be in float32",
            f"{file.path} with {', '.join(other[:5])}",
            "call model.float() before torch.export.export",
        )
    check_finite(named, f"torch.export archive {file.path.name}")
