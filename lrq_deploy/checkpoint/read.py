"""Reading weights from a checkpoint file; by default nothing of the file is executed."""

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrq_deploy.checkpoint.averaged import AveragedWeights, averaged_weights
from lrq_deploy.checkpoint.class_names import stated_class_names
from lrq_deploy.checkpoint.identify import CheckpointFile, identify
from lrq_deploy.checkpoint.lazy import refuse_lazy
from lrq_deploy.checkpoint.naming import NESTING_KEYS, strip_wrappers
from lrq_deploy.checkpoint.pickle_globals import PickleGlobals, archive_globals, legacy_globals
from lrq_deploy.checkpoint.quantized import refuse_packed, refuse_quantized
from lrq_deploy.checkpoint.restricted import (
    SAVE_AGAIN,
    first_line,
    inert_stand_ins,
    unpickle_tensors,
)
from lrq_deploy.checkpoint.saving import WeightsSource, safetensors_source, torch_source
from lrq_deploy.checkpoint.stated import stated_architectures
from lrq_deploy.checkpoint.torchscript import read_script_weights
from lrq_deploy.checkpoint.weights_place import place_of_weights
from lrq_deploy.errors import CheckpointError
from lrq_deploy.wording import counted

__all__ = ["NESTING_KEYS", "StateDict", "check_finite", "read_state_dict"]

_NAMED_GLOBALS = 10
_NAMED_TENSORS = 5
_HALF_AND_DOUBLE = (torch.float16, torch.bfloat16, torch.float64)
# Weights tied in a network share storage; an expanded tensor of a hostile file shares more.
_SHARING_MAX = 8
_SHARING_ALLOWANCE_BYTES = 2**28


@dataclass(frozen=True)
class StateDict:
    """Weights as read from a file.

    Attributes:
        tensors: by name, on the CPU, floating point ones float32 and finite; the prefixes that
            DistributedDataParallel and torch.compile add are gone.
        origin: what was read, for reports.
        module: the whole network in evaluation mode where a trusted pickle held one.
        stated: what the file calls its architecture.
        averaged: weights beside these, which were not read.
        class_names: that the file states, in the order of the logits.
        source: Python that reads the tensors again; ``None`` of a module or a script.
    """

    tensors: dict[str, Tensor]
    origin: str
    module: nn.Module | None = None
    stated: tuple[str, ...] = ()
    averaged: AveragedWeights | None = None
    class_names: tuple[str, ...] = ()
    source: WeightsSource | None = None


def read_state_dict(path: Path, trust_pickle: bool = False) -> StateDict:
    """Read the weights of a checkpoint file, nested or not (see ``NESTING_KEYS``).

    Args:
        path: a file of ``torch.save`` (zip or legacy), safetensors or TorchScript.
        trust_pickle: let the pickle in the file run its own code; only then can it hold a
            whole module.

    Raises:
        CheckpointError: not such a file; it wants to import what is not a tensor and is not
            trusted; it holds no tensors, or NaN or infinite values.
    """
    file = identify(path)
    if file.kind == "export-archive":
        raise CheckpointError(
            "a state dict is needed here",
            f"the torch.export archive {path}",
            "read it with lrq_deploy.checkpoint.export_archive.read_export_archive",
        )
    if file.kind == "safetensors":
        raw = _read_safetensors(file)
        clean = _clean(raw, f"safetensors {path.name}", file.size_bytes)
        return replace(clean, source=safetensors_source(path, raw))
    if file.kind == "torchscript":
        return _clean(read_script_weights(file), f"TorchScript {path.name}", file.size_bytes)
    form = "torch.save archive" if file.kind == "torch-zip" else "legacy torch.save file"
    found = _globals_of(file)
    if found.unsafe and not trust_pickle:
        raise _untrusted(path, found)
    content = _unpickle_trusted(path) if found.unsafe else _unpickle_tensors(file, found)
    origin = f"{form} {path.name}"
    plain = not (found.unsafe or found.inert)
    payload, keys = _unwrap(content, path, plain)
    averaged = averaged_weights(content, keys, path, _is_module, _is_tensor, plain)
    if keys:
        origin += f" under {'.'.join(keys)}"
    if isinstance(payload, nn.Module):
        refuse_quantized(payload, origin)
        refuse_lazy(payload, origin)
        module = payload.float().eval().cpu()
        clean = _clean(dict(module.state_dict()), origin + ", pickled module", file.size_bytes)
        names = stated_class_names(content) or stated_class_names(module)
        return replace(clean, module=module, averaged=averaged, class_names=names)
    clean = _clean(payload, origin, file.size_bytes)
    return replace(
        clean,
        stated=stated_architectures(content),
        averaged=averaged,
        class_names=stated_class_names(content),
        source=torch_source(path, payload, keys, plain, False),
    )


def check_finite(tensors: Mapping[str, Tensor], origin: str) -> None:
    """Refuse NaN and infinite values.

    Raises:
        CheckpointError: names the first tensors that hold such values.
    """
    bad = [name for name, tensor in tensors.items() if not _is_finite(tensor)]
    if bad:
        shown = ", ".join(bad[:_NAMED_TENSORS]) + (", ..." if len(bad) > _NAMED_TENSORS else "")
        raise CheckpointError(
            "weights must be finite",
            f"NaN or Inf in {len(bad)} of {counted(len(tensors), 'tensor')} of {origin}: {shown}",
            "take an earlier checkpoint of the training",
        )


def _is_finite(tensor: Tensor) -> bool:
    # min and max carry NaN and Inf along, without a mask as large as the tensor.
    if tensor.is_complex():
        return bool(torch.isfinite(tensor).all())
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) and torch.isfinite(high))


def _globals_of(file: CheckpointFile) -> PickleGlobals:
    if file.kind == "torch-zip":
        return archive_globals(file.path, file.root)
    return legacy_globals(file.path)


def _read_safetensors(file: CheckpointFile) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file.path, device="cpu")
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            "the safetensors file must be intact",
            f"{file.path}: {str(error)[:200]}",
            "copy or download it again",
        ) from error


def _unpickle_tensors(file: CheckpointFile, found: PickleGlobals) -> object:
    mapped = file.kind == "torch-zip" and not file.compressed
    return unpickle_tensors(file.path, file.path, inert_stand_ins(found.inert), mapped)


def _unpickle_trusted(path: Path) -> object:
    try:
        with warnings.catch_warnings(), _importable(path.resolve().parent, Path.cwd()):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=False)
    # The file runs its own code here, so anything may be raised.
    except Exception as error:
        raise CheckpointError(
            "a trusted pickle must load where its classes can be imported",
            f"{type(error).__name__}: {first_line(error)} from {path}",
            "install the package that defines them, or put its folder beside the file, into the "
            "working directory or into PYTHONPATH; or pass a state dict with --arch",
        ) from error


@contextmanager
def _importable(*folders: Path) -> Iterator[None]:
    """Where whoever saved a module most likely keeps its code; nothing is cached there.

    What is imported stays in ``sys.modules``, as pickle leaves it: its classes refer to it.
    """
    before, no_bytecode = list(sys.path), sys.dont_write_bytecode
    sys.path[:0] = [str(folder) for folder in folders]
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.path[:] = before
        sys.dont_write_bytecode = no_bytecode


def _untrusted(path: Path, found: PickleGlobals) -> CheckpointError:
    shown = ", ".join(found.unsafe[:_NAMED_GLOBALS])
    more = len(found.unsafe) - _NAMED_GLOBALS
    what = "a pickled module" if _holds_module(found) else "a pickle that is more than tensors"
    return CheckpointError(
        "a checkpoint must hold tensors only unless its code is trusted",
        f"{path}, {what} that wants to import {shown}" + (f" and {more} more" if more > 0 else ""),
        "pass a state dict (torch.save(model.state_dict(), path)) with --arch, or, if you trust "
        "whoever made this file, --trust-pickle to run its code",
    )


def _holds_module(found: PickleGlobals) -> bool:
    return any(name.startswith("torch.nn.modules.") for name in found.unsafe)


def _unwrap(content: object, path: Path, plain: bool) -> tuple[Any, tuple[str, ...]]:
    """Module or mapping that holds the weights, and the keys that lead to it."""
    keys = place_of_weights(content, path, _is_module, _is_tensor, plain)
    for key in keys:
        content = content[key]  # type: ignore[index]
    if isinstance(content, nn.DataParallel):
        content = content.module
    return content, keys


def _is_module(value: object) -> bool:
    return isinstance(value, nn.Module)


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _clean(raw: Mapping[Any, object], origin: str, size_bytes: int) -> StateDict:
    # Attributes that a file gives to a parameter are left behind, as one may be called "detach".
    named = {
        key: Tensor.detach(value)
        for key, value in raw.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    if not named:
        raise CheckpointError("a checkpoint must hold tensors", f"none in {origin}", SAVE_AGAIN)
    refuse_packed(raw, origin)
    _check_layout(named, origin, size_bytes)
    tensors = {name: _as_float32(tensor) for name, tensor in named.items()}
    check_finite(tensors, origin)
    return StateDict(strip_wrappers(tensors), origin)


def _check_layout(tensors: Mapping[str, Tensor], origin: str, size_bytes: int) -> None:
    total = 0
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise CheckpointError(
                "weights must be dense floating point tensors",
                f"{name} of {origin}, which is quantized, sparse or without data",
                "pass the full-precision network",
            )
        total += tensor.numel() * tensor.element_size()
    if total > _SHARING_MAX * size_bytes + _SHARING_ALLOWANCE_BYTES:
        raise CheckpointError(
            "tensors must not be larger than their file",
            f"{total} bytes of tensors in {origin} of {size_bytes} bytes",
            SAVE_AGAIN,
        )


def _as_float32(tensor: Tensor) -> Tensor:
    if tensor.dtype in _HALF_AND_DOUBLE or "float8" in str(tensor.dtype):
        return tensor.to(torch.float32)
    return tensor
