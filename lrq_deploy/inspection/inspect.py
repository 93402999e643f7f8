"""From a model file to everything that can be said of it without executing any of it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lrq_deploy.checkpoint.hub_config import names_of, read_hub_config
from lrq_deploy.checkpoint.identify import identify, is_onnx
from lrq_deploy.checkpoint.naming import (
    COUNTERS,
    classes_of_shapes,
    strip_wrappers,
    without_prefixes,
)
from lrq_deploy.checkpoint.transformers_config import read_transformers_config
from lrq_deploy.checkpoint.weights_folder import weights_file
from lrq_deploy.errors import CheckpointError
from lrq_deploy.inspection.checkpoint_outline import (
    outline_safetensors,
    outline_script,
    outline_torch_file,
)
from lrq_deploy.inspection.export_outline import outline_export_archive
from lrq_deploy.inspection.matching import Match, find_architectures
from lrq_deploy.inspection.onnx_outline import outline_onnx
from lrq_deploy.inspection.outline import Outline, TensorOutline
from lrq_deploy.progress import ProgressCallback, silent

__all__ = ["Inspection", "inspect_model"]

_BUFFERS = ("running_mean", "running_var", *COUNTERS)
_RGB = 3
_NOT_SEARCHED = Match((), None, "")


@dataclass(frozen=True)
class Inspection:
    """What a model file is and which known architecture it belongs to.

    Attributes:
        path: the file.
        kind: its format: ``torch-zip``, ``torch-legacy``, ``safetensors``, ``torchscript``,
            ``export-archive`` or ``onnx``.
        size_bytes: its length.
        outline: what it tells of itself.
        parameters: number of trained values, BatchNorm statistics not counted.
        batch_norms: layers with running statistics.
        num_classes: likely length of a row of logits; ``None`` if no tensor shows it.
        input_channels: likely channels of the input; ``None`` if no tensor shows it.
        match: known architectures that fit.
        described: class of transformers that a ``config.json`` beside the file says it is; empty
            for none.
        sized: whether the files beside such weights tell the size of the images.
        normalised: whether they tell the mean and std of the images.
        class_names: that it or a file beside it states, as many as classes; else empty.
    """

    path: Path
    kind: str
    size_bytes: int
    outline: Outline
    parameters: int
    batch_norms: int
    num_classes: int | None
    input_channels: int | None
    match: Match
    described: str = ""
    sized: bool = False
    normalised: bool = False
    class_names: tuple[str, ...] = ()


def inspect_model(path: Path, progress: ProgressCallback = silent) -> Inspection:
    """Read a model file of any kind; nothing of it is unpickled, imported or run.

    Args:
        path: the file, or a folder with one file of weights.
        progress: receives the steps of indexing known architectures, the first time only.

    Raises:
        CheckpointError: missing, damaged, or not a model that this project can read; a plain
            pickle says what to save instead.
    """
    path = weights_file(path)
    kind, size, outline = _outline(path)
    shapes = {name: tensor.shape for name, tensor in outline.tensors.items()}
    weights_alone = kind not in ("onnx", "export-archive")
    beside = read_transformers_config(path) if weights_alone else None
    searched = weights_alone and beside is None
    config = read_hub_config(path)
    names = names_of(outline.stated, config)
    match = find_architectures(shapes, progress, names) if searched else _NOT_SEARCHED
    classes = outline.num_classes
    if classes is None and match.candidates:
        classes = match.candidates[0].num_classes
    if classes is None and match.near:
        classes = match.near.num_classes
    if classes is None and kind != "onnx":
        classes = classes_of_shapes(without_prefixes(strip_wrappers(shapes))[-1])
    class_names = outline.class_names
    for described in (beside, config) if weights_alone else ():
        class_names = class_names or (described.class_names if described else ())
    return Inspection(
        path=path,
        kind=kind,
        size_bytes=size,
        outline=outline,
        parameters=sum(
            tensor.count
            for name, tensor in outline.tensors.items()
            if not name.endswith(_BUFFERS) and tensor.dtype.startswith(("float", "bfloat"))
        ),
        batch_norms=sum(name.endswith("running_var") for name in outline.tensors),
        num_classes=classes,
        input_channels=_input_channels(outline, match),
        match=match,
        described="" if beside is None else beside.network,
        sized=beside is not None and beside.sized,
        normalised=beside is not None and beside.normalised,
        class_names=class_names if len(class_names) == classes else (),
    )


def _outline(path: Path) -> tuple[str, int, Outline]:
    try:
        file = identify(path)
    except CheckpointError:
        if os.path.isfile(path) and is_onnx(path, path.stat().st_size):
            return "onnx", path.stat().st_size, outline_onnx(path)
        raise
    if file.kind == "export-archive":
        return file.kind, file.size_bytes, outline_export_archive(file)
    if file.kind == "torchscript":
        return file.kind, file.size_bytes, outline_script(file)
    if file.kind == "safetensors":
        return file.kind, file.size_bytes, outline_safetensors(file)
    return file.kind, file.size_bytes, outline_torch_file(file)


def _input_channels(outline: Outline, match: Match) -> int | None:
    """Channels that the first convolution reads.

    Names may be sorted or registered in any order, and a depthwise convolution reads 1 channel of
    many: a kernel with sides over 3 channels tells an image wherever it stands.
    """
    if outline.input_shape is not None:
        return outline.input_shape[1] if outline.input_shape[1] > 0 else None
    if match.candidates:
        # Known networks are compared as their libraries build them by default.
        return _RGB
    kernels = _kernels(outline.tensors)
    if not kernels:
        return None
    ordered = list(outline.tensors) != sorted(outline.tensors)
    first = kernels[0]
    if ordered and first[0] == _RGB and first[2:] == (1, 1):
        # What turns other images into RGB for the network behind it.
        return first[1]
    if any(kernel[1] == _RGB and kernel[2:] != (1, 1) for kernel in kernels):
        return _RGB
    if ordered or first[1] in (1, _RGB):
        return first[1]
    return _RGB if any(kernel[1] == _RGB for kernel in kernels) else None


def _kernels(tensors: Mapping[str, TensorOutline]) -> list[tuple[int, ...]]:
    return [
        tensor.shape
        for name, tensor in tensors.items()
        if name.endswith("weight") and len(tensor.shape) == 4
    ]
