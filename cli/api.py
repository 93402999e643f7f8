"""``lrq_deploy.quantize``: the command's job for a notebook or one's own training code."""

import functools
import inspect
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar

from lrq_deploy.cli.flags.quantize_flags import QuantizeFlags, control_from, options_from
from lrq_deploy.errors import OptionError
from lrq_deploy.options import Device, MarginMode, Method, Precision, Recipe
from lrq_deploy.progress import ProgressCallback, silent
from lrq_deploy.scheme import ActSymmetry, Depthwise
from lrq_deploy.task import Task

if TYPE_CHECKING:
    from torch import nn

    from lrq_deploy.export.bundle.folder import Bundle

__all__ = ["quantize"]

_PER_CHANNEL = "one number per channel, for instance (0.485, 0.456, 0.406)"
_WANTED = {
    "input_shape": "three whole numbers (C, H, W) without the batch, for instance (3, 224, 224)",
    "mean": _PER_CHANNEL,
    "std": _PER_CHANNEL,
}
"""Of tuples, where pydantic speaks of fields, and leaving them out may be refused as well."""

_TURN = threading.RLock()
"""Of one thread at a time: torch captures networks and seeds weights for the whole process."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _typed(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Refuse arguments that are not of their annotations; lists pass for tuples.

    None stands for what is not given.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        from pydantic import TypeAdapter, ValidationError

        bound = signature.bind(*args, **kwargs)
        for name, given in bound.arguments.items():
            value = bound.arguments[name] = tuple(given) if isinstance(given, list) else given
            hint = signature.parameters[name].annotation
            # A network is judged where it is captured; its annotation names what is not imported.
            if isinstance(hint, str) or value is None:
                continue
            try:
                TypeAdapter(hint).validate_python(value, strict=True)
            except ValidationError as error:
                raise _refusal(name, value, [part["msg"] for part in error.errors()]) from error
        return function(*bound.args, **bound.kwargs)

    return checked


def _refusal(name: str, value: object, complaints: list[str]) -> OptionError:
    received = f"{value!r:.80}"
    if name in _WANTED:
        rule, _, example = _WANTED[name].partition(", for instance ")
        return OptionError(
            f"{name} must be {rule}", received, f"pass for instance {name}={example}"
        )
    said = dict.fromkeys(text.lower() for text in complaints)
    remedy = f"pass such a value, or leave {name} out"
    return OptionError(f"{name}: {', or '.join(said)}", received, remedy)


@_typed
def quantize(
    model: "nn.Module | str | Path",
    bits: int | Literal["mixed"] | None = 4,
    input_shape: tuple[int, int, int] | None = None,
    *,
    target_size: float | None = None,
    weight_bits: int | None = None,
    act_bits: int | None = None,
    edge_bits: int | Literal["same"] = 8,
    residual_bits: int | Literal["same"] = 8,
    act_symmetry: ActSymmetry = "symmetric",
    depthwise: Depthwise = "int8",
    int4_linear: bool = False,
    target: str = "auto",
    cache: str | Path | None = None,
    resume: bool = False,
    checkpoint_every: float = 60.0,
    max_memory: int | None = None,
    arch: str | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    output: str | int | None = None,
    task: Task | None = None,
    images: str | Path | None = None,
    method: Method = "lrq",
    recipe: Recipe = "balanced",
    device: Device = "auto",
    precision: Precision = "auto",
    compile: bool = False,
    seed: int = 0,
    out: str | Path | None = None,
    force: bool = False,
    trust_pickle: bool = False,
    long_range: bool | None = None,
    margin: MarginMode | None = None,
    decoupled: bool | None = None,
    bench: bool = True,
    name: str | None = None,
    progress: ProgressCallback | None = None,
) -> "Bundle":
    """Quantize a trained classifier without data and write its bundle.

    The options are those of ``lrq-deploy quantize``, with the same defaults and checks.

    Args:
        model: a network in memory, which stays as it is, or a checkpoint file.
        bits: 2..8, of weights and activations, or ``mixed`` with ``target_size``.
        target_size: largest ``model.onnx`` in millions of bytes; widths are chosen per layer.
        input_shape: ``(C, H, W)``; needed for a network in memory.
        weight_bits, act_bits: 2..8, instead of ``bits``.
        edge_bits: 2..8 or ``same``, of the first and the last layer.
        residual_bits: 2..8 or ``same``, of tensors that additions and poolings read.
        act_symmetry: zero points of activations all 0, or free.
        depthwise: ``float`` keeps convolutions of fewer than 4 channels per group in float.
        int4_linear: linear layers of INT4 weights and float inputs, for TensorRT.
        target: ``onnxruntime``, ``tensorrt``, ``all``, or ``auto`` for all that can run the
            zero points.
        arch: ``torchvision:NAME``, ``timm:NAME`` or ``FILE.py:FACTORY`` of a checkpoint file.
        mean, std: per channel, in units of the 0..1 pixel range; both or neither.
        output: key, path or number of the logits where the network returns several tensors.
        task: one class per image (``multiclass``), or a yes or no per logit (``multilabel``); as
            the ``config.json`` of transformers beside a checkpoint file says, else the former.
        images: folder of images, only to measure.
        method: named set of parts and settings, see ``docs/method.md``.
        recipe: how much time to spend.
        device: where to train.
        precision: bfloat16 while training where the device is made for it, or ``float32``.
        compile: compile the student before it is trained; pays for many steps.
        seed: of everything random, 0 or more.
        out: directory to create; ``runs/NAME-w4a4``, if not given.
        force: replace a bundle at ``out``.
        trust_pickle: run the code of a pickled module in a checkpoint file.
        long_range, margin, decoupled: parts of the method; those of ``method``, if not given.
        bench: time the result against the float network.
        cache: folder where the made images are kept, and reused while they would be the same.
        resume: continue the run for the same ``out`` that was stopped; start, where there is none.
        checkpoint_every: seconds between two states of the training, kept beside ``out``.
        max_memory: MiB that the process may take before the made images stay on the disk.
        name: of a network in memory, for reports; its class, if not given.
        progress: receives the events of every stage.

    Returns:
        The bundle on the disk; ``bundle.manifest.metrics`` holds every figure.

    Raises:
        LrqError: an option, the network, the images or the output cannot be used (nothing is
            written then), the training diverges, or the graph misses the parity bound.
    """
    network = None if isinstance(model, str | Path) else model
    _check_source(network is not None, arch, name)
    flags = QuantizeFlags(
        bits=bits,
        target_size=target_size,
        weight_bits=weight_bits,
        act_bits=act_bits,
        edge_bits=edge_bits,
        residual_bits=residual_bits,
        act_symmetry=act_symmetry,
        depthwise=depthwise,
        int4_linear=int4_linear or None,
        arch=arch,
        input_shape=input_shape,
        mean=mean,
        std=std,
        output=None if output is None else str(output),
        task=task or (None if network is None else "multiclass"),
        images=None if images is None else Path(images),
        method=method,
        recipe=recipe,
        device=device,
        precision=precision,
        compile=compile,
        seed=seed,
        out=None if out is None else Path(out),
        force=force,
        trust_pickle=trust_pickle,
        long_range=long_range,
        margin=margin,
        decoupled=decoupled,
        target=target,
        bench=bench,
        cache=None if cache is None else Path(cache),
        resume=resume,
        checkpoint_every=checkpoint_every,
        max_memory=max_memory,
    )
    path = Path(model) if isinstance(model, str | Path) else Path(name or type(model).__name__)
    options = options_from(path, flags)

    from lrq_deploy.cli.job.pipeline import quantize as run_pipeline
    from lrq_deploy.export.bundle.folder import load_bundle

    with _TURN:
        result = run_pipeline(options, progress or silent, network, control=control_from(flags))
    return load_bundle(result.bundle_path)


def _check_source(in_memory: bool, arch: str | None, name: str | None) -> None:
    if in_memory and arch is not None:
        raise OptionError("arch is for a checkpoint file", f"{arch!r} with a network", "drop arch")
    if not in_memory and name is not None:
        raise OptionError("name is for a network in memory", repr(name), "drop name")
