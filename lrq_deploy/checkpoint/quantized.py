"""Networks that torch.ao has quantized, or prepared for it: they hold no weights to begin with."""

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from lrq_deploy.errors import CheckpointError

__all__ = ["float_weights_remedy", "refuse_packed", "refuse_quantized"]

_LAYERS = ("torch.ao.nn.quantized.", "torch.ao.nn.intrinsic.quantized.")
_IN_FLOAT = ("FloatFunctional", "FXFloatFunctional")
"""Of the same module, but sums and products of networks that wait for being quantized."""
_PACKED = "._packed_params"
"""What the weight of a quantized linear layer is called in a state dict; it is no tensor there."""
_BESIDE = ("activation_post_process", "fake_quant")
"""In the names of what torch adds to a network that it prepares."""


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
            received = f"{origin}, which holds a {kind}" + (f" as {name}" if name else "")
            remedy = "" if in_integers else float_weights_remedy(_BESIDE, "prepared.state_dict()")
            raise _already(received, remedy)


def refuse_packed(keys: Iterable[object], origin: str) -> None:
    """Refuse a state dict with linear layers that torch has packed for its integer kernels.

    Raises:
        CheckpointError: names the first such layer.
    """
    for key in keys:
        if isinstance(key, str) and key.endswith(_PACKED):
            raise _already(f"{origin}, whose {key} is the packed weight of a quantized layer")


def float_weights_remedy(names: Iterable[str], weights: str) -> str:
    """How weights of a network that torch has prepared get back into its own; else empty.

    By order where fusing has put a BatchNorm below its convolution, by name elsewhere, so that
    weights in another order are missing and not mistaken.

    Args:
        names: of the tensors.
        weights: Python that gives them by name.
    """
    if not any(mark in name for name in names for mark in _BESIDE):
        return ""
    return (
        "torch has prepared it for quantization; put its float weights into the network from "
        f"before, here called network, and pass that: kept = [(n, t) for n, t in {weights}.items() "
        f"if not any(mark in n for mark in {_BESIDE})]; network.load_state_dict({{own: t for own, "
        "(n, t) in zip(network.state_dict(), kept, strict=True) if n == own or '.bn.' in n})"
    )


def _parts(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """Like ``named_modules``, which a quantized layer that was unpickled does not have."""
    yield path, module
    for name, part in (vars(module).get("_modules") or {}).items():
        if isinstance(part, nn.Module):
            yield from _parts(part, f"{path}.{name}" if path else name)


def _already(received: str, remedy: str = "") -> CheckpointError:
    return CheckpointError(
        "the network must have weights in floating point, not be quantized already",
        received,
        remedy or "pass the network, or its checkpoint, from before it was quantized",
    )
