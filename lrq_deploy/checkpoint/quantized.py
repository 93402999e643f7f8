"""Networks that torch.ao has quantized, or prepared for it: they hold no weights to begin with."""

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from lrq_deploy.errors import CheckpointError

__all__ = ["refuse_packed", "refuse_quantized"]

_LAYERS = ("torch.ao.nn.quantized.", "torch.ao.nn.intrinsic.quantized.")
_IN_FLOAT = ("FloatFunctional", "FXFloatFunctional")
"""Of the same module, but sums and products of networks that wait for being quantized."""
_PACKED = "._packed_params"
"""What the weight of a quantized linear layer is called in a state dict; it is no tensor there."""


def refuse_quantized(network: nn.Module, origin: str) -> None:
    """Refuse a module or script with parts that compute in integers or observe ranges.

    Raises:
        CheckpointError: names the first such part.
    """
    if isinstance(network, torch.jit.ScriptModule):
        # One without forward has none.
        if "quantized::" in str(getattr(network, "inlined_graph", "")):
            raise _already(f"{origin}, whose code calls torch's quantized operators")
        return
    for name, part in _parts(network, ""):
        kind = f"{type(part).__module__}.{type(part).__name__}"
        in_integers = kind.startswith(_LAYERS) and type(part).__name__ not in _IN_FLOAT
        # Observers and fake quantizers stand between the layers of a network that is prepared.
        if in_integers or hasattr(part, "calculate_qparams"):
            raise _already(f"{origin}, which holds a {kind}" + (f" as {name}" if name else ""))


def refuse_packed(keys: Iterable[object], origin: str) -> None:
    """Refuse a state dict with linear layers that torch has packed for its integer kernels.

    Raises:
        CheckpointError: names the first such layer.
    """
    for key in keys:
        if isinstance(key, str) and key.endswith(_PACKED):
            raise _already(f"{origin}, whose {key} is the packed weight of a quantized layer")


def _parts(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """Like ``named_modules``, which a quantized layer that was unpickled does not have."""
    yield path, module
    for name, part in (vars(module).get("_modules") or {}).items():
        if isinstance(part, nn.Module):
            yield from _parts(part, f"{path}.{name}" if path else name)


def _already(received: str) -> CheckpointError:
    return CheckpointError(
        "the network must have weights in floating point, not be quantized already",
        received,
        "pass the network, or its checkpoint, from before it was quantized",
    )
