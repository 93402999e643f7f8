"""TorchScript archives: their weights without running anything, or the program that they hold.

An archive is what ``torch.save`` writes, with the state of each part as attributes of an object
of a class of its own, beside source code. Reading the weights leaves the code alone. Loading the
program runs it in TorchScript's interpreter, which may write files, so it must be trusted.
"""

import io
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lrq_deploy.checkpoint.identify import CheckpointFile
from lrq_deploy.checkpoint.pickle_globals import archive_globals
from lrq_deploy.checkpoint.restricted import (
    StandIns,
    first_line,
    inert_stand_ins,
    unpickle_tensors,
)
from lrq_deploy.checkpoint.script_parts import (
    CLASSES,
    HELPERS,
    foreign_globals,
    script_tensors,
)
from lrq_deploy.checkpoint.zip_damage import ZIP_DAMAGE
from lrq_deploy.errors import CheckpointError

__all__ = ["TRUST", "read_script", "read_script_weights"]

TRUST = (
    "if you trust whoever made it, pass --trust-pickle with --input-shape C,H,W to run the "
    "network that it holds"
)
"""What else to do with an archive."""

_WEIGHTS = ("data.pkl", "data/", "version", "byteorder")


class _Part:
    """An object of the archive: its attributes, without its code."""

    def __new__(cls, *args: object) -> "_Part":
        created = super().__new__(cls)
        created.state = {}
        return created

    state: Mapping[Any, Any]

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.state = state


def _value(value: object, *_: object) -> object:
    return value


def read_script_weights(file: CheckpointFile) -> dict[str, Tensor]:
    """Parameters and buffers by name, as the network's ``state_dict`` has them.

    A tensor that the network holds as a plain attribute is among them.

    Raises:
        CheckpointError: damaged, or it holds objects that are not TorchScript's.
    """
    found = archive_globals(file.path, file.root)
    foreign = foreign_globals(found)
    if foreign:
        raise CheckpointError(
            "a TorchScript archive must hold tensors and its own classes only",
            f"{file.path}, which wants to import {', '.join(foreign[:10])}",
            "save the weights alone: torch.save(torch.jit.load(path).state_dict(), path)",
        )
    stand_ins: StandIns = inert_stand_ins(found.inert)
    stand_ins += [(_Part, name) for name in found.unsafe if name.startswith(CLASSES)]
    stand_ins += [(_value, name) for name in found.unsafe if name.startswith(HELPERS)]
    content = unpickle_tensors(_without_code(file), file.path, stand_ins)
    tensors = dict(script_tensors(content, _state, Tensor))
    if not tensors:
        raise CheckpointError(
            "a TorchScript archive must hold its weights as parameters to be read as a checkpoint",
            f"none in {file.path}, whose weights are constants of its code (torch.jit.freeze)",
            TRUST,
        )
    return tensors


def _state(part: object) -> Mapping[Any, Any] | None:
    return part.state if isinstance(part, _Part) else None


def _without_code(file: CheckpointFile) -> io.BytesIO:
    """The archive in memory as ``torch.save`` would have written it."""
    target = io.BytesIO()
    try:
        with zipfile.ZipFile(file.path) as archive, zipfile.ZipFile(target, "w") as copy:
            for entry in archive.infolist():
                if entry.filename.removeprefix(f"{file.root}/").startswith(_WEIGHTS):
                    copy.writestr(entry.filename, archive.read(entry))
    except ZIP_DAMAGE as error:
        raise CheckpointError(
            "an archive must be intact", f"{file.path}: {error}", "copy or download it again"
        ) from error
    target.seek(0)
    return target


def read_script(file: CheckpointFile) -> torch.jit.ScriptModule:
    """Load the program of a trusted archive, onto the CPU.

    Raises:
        CheckpointError: it does not load with this version of torch.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            script: torch.jit.ScriptModule = torch.jit.load(file.path, map_location="cpu")
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"a TorchScript archive must load with torch {torch.__version__}",
            f"{file.path}: {type(error).__name__}: {first_line(error)}",
            "pass a state dict saved with torch.save(model.state_dict(), path), with --arch",
        ) from error
    return script
