"""What ``quantize`` refuses by the tensors of a file alone: a command would only waste time."""

from lrq_deploy.inspection.inspect import Inspection

__all__ = ["refusal"]

_QUANTIZED = ("qint", "quint")
_OTHER_FLOATS = ("float16", "bfloat16", "float64")
_EXPORT = "torch.export.save(torch.export.export(...), path)"


def refusal(found: Inspection) -> str:
    """Why ``quantize`` refuses the file and what to do instead; empty where it does not."""
    outline, tensors = found.outline, found.outline.tensors
    if found.kind == "export-archive":
        if outline.unsafe_globals:
            return (
                f"It holds what quantize refuses to load: {outline.unsafe_globals[0]}. Export the "
                f"plain float network again with {_EXPORT}."
            )
        if outline.training:
            return (
                f"It was exported in training mode ({outline.training}), which quantize refuses. "
                f"Call eval() on the network and export it again with {_EXPORT}."
            )
        other = [name for name, tensor in tensors.items() if tensor.dtype in _OTHER_FLOATS]
        if other:
            return (
                f"quantize takes archives in float32, and {other[0]} is "
                f"{tensors[other[0]].dtype}. Call float() on the network and export it again with "
                f"{_EXPORT}."
            )
        return ""
    quantized = [name for name, t in tensors.items() if t.dtype.startswith(_QUANTIZED)]
    if quantized:
        return _already(f"{quantized[0]} is {tensors[quantized[0]].dtype}")
    # Packed parameters of quantized linear layers are no tensors; only their scales are told.
    weighted = any(len(t.shape) > 1 and "float" in t.dtype for t in tensors.values())
    if not weighted and any(name.endswith(".zero_point") for name in tensors):
        return _already("it holds zero points and no weights in floating point")
    return ""


def _already(what: str) -> str:
    return (
        f"It holds a network that is quantized already ({what}); quantize needs weights in "
        "floating point. Pass the checkpoint of the network from before it was quantized."
    )
