"""The options of one ``quantize`` run, validated once, before anything is read or written."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from lrq_deploy.errors import OptionError
from lrq_deploy.scheme import Scheme
from lrq_deploy.task import Task

__all__ = [
    "Device",
    "ImageSource",
    "MarginMode",
    "Method",
    "MethodSwitches",
    "Precision",
    "QuantizeOptions",
    "Recipe",
]

Recipe = Literal["fast", "balanced", "best"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32"]
MarginMode = Literal["a1", "a2", "b", "off"]
Method = Literal["lrq", "lrq-blocks", "leaves", "lrq-paper", "gdfq", "zeroq", "calibrate"]
ImageSource = Literal["generator", "noise", "leaves"]


@dataclass(frozen=True)
class MethodSwitches:
    """Parts of the method, each of which can be switched off for an ablation.

    Attributes:
        long_range: large-kernel attention in the generator (off: plain convolutions).
        margin: reading of Adversarial Margin Add, see ``lrq_deploy.method.images.margin``.
        decoupled: decoupled distillation (off: plain distillation).
        image_source: what images are drawn from before their pixels are refined.
        range_search: first scales by search (off: smallest and largest value).
    """

    long_range: bool = True
    margin: MarginMode = "a2"
    decoupled: bool = True
    image_source: ImageSource = "generator"
    range_search: bool = True

    def __post_init__(self) -> None:
        _check_choice("margin", self.margin, get_args(MarginMode))
        _check_choice("image_source", self.image_source, get_args(ImageSource))


@dataclass(frozen=True)
class QuantizeOptions:
    """Everything a run depends on.

    Attributes:
        model: checkpoint file, or a folder with one.
        out: bundle directory to create.
        scheme: bit widths.
        arch: ``torchvision:NAME``, ``timm:NAME`` or ``FILE.py:FACTORY``; ``None`` for a
            ``torch.export`` archive.
        input_shape: ``(C, H, W)``; ``None`` where the archive or the name tells it.
        mean, std: per channel, in units of the 0..1 pixel range; both or neither.
        output: which tensor holds the logits where the network returns several: its key, its
            path such as ``heads.0``, or its number; ``None`` follows the rule of
            ``lrq_deploy.graph.outputs``.
        task: what the logits mean. Sets of labels need ``method`` without a margin and without
            decoupled distillation, which are about one class.
        images: ImageFolder used only to measure.
        recipe: how much time to spend.
        device: where to train.
        precision: of the multiplications in training: bfloat16 where the device is made for it, or
            float32 everywhere.
        compile: compile the student before it is trained.
        seed: of every random generator, from 0 to below 2**63.
        trust_pickle: allow a pickled module or TorchScript to run its code.
        force: replace an existing bundle.
        method: ablation switches.
        method_name: set of settings over the recipe's, see ``lrq_deploy.method.methods``.
        target: name of the runtime that must be able to run the result, ``all``, or ``auto``
            for all that can run the scheme.
        target_size: of ``model.onnx`` in units of 1,000,000 bytes; widths of the weights are then
            chosen per layer, and ``scheme.weight_bits`` is the widest. None keeps ``scheme``.
        bench: time the result against the float network; off where the machine is too noisy.
    """

    model: Path
    out: Path
    scheme: Scheme = field(default_factory=Scheme)
    arch: str | None = None
    input_shape: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    output: str | None = None
    task: Task = "multiclass"
    images: Path | None = None
    recipe: Recipe = "balanced"
    device: Device = "auto"
    precision: Precision = "auto"
    compile: bool = False
    seed: int = 0
    trust_pickle: bool = False
    force: bool = False
    method: MethodSwitches = field(default_factory=MethodSwitches)
    method_name: Method = "lrq"
    target: str = "auto"
    target_size: float | None = None
    bench: bool = True

    def __post_init__(self) -> None:
        _check_choice("recipe", self.recipe, get_args(Recipe))
        _check_choice("device", self.device, get_args(Device))
        _check_choice("precision", self.precision, get_args(Precision))
        _check_choice("task", self.task, get_args(Task))
        _check_choice("method", self.method_name, get_args(Method))
        if self.task == "multilabel" and (self.method.decoupled or self.method.margin != "off"):
            raise OptionError(
                "margin and decoupled distillation are about one class per image",
                f"task multilabel with margin {self.method.margin}"
                + (" and decoupled distillation" if self.method.decoupled else ""),
                "leave out --margin and --decoupled",
            )
        if self.target_size is not None and not 0 < self.target_size < float("inf"):
            raise OptionError(
                "target_size must be above 0 MB", f"{self.target_size}", "pass --target-size 0.2"
            )
        # torch takes a bit more, and some stages count on from the seed.
        if not 0 <= self.seed < 2**63:
            raise OptionError(
                "seed must be 0 or more and below 2**63", str(self.seed), "pass --seed 0"
            )
        if self.input_shape is not None:
            _check_input_shape(self.input_shape)
        _check_preprocessing(self.mean, self.std, self.input_shape)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(
            f"{name} must be one of {', '.join(choices)}", repr(value), "pass one of these"
        )


def _check_input_shape(shape: tuple[int, ...]) -> None:
    received = ",".join(str(n) for n in shape)
    if len(shape) != 3:
        raise OptionError(
            "input_shape must be C,H,W", received, "pass three numbers such as 3,32,32"
        )
    channels, height, width = shape
    if channels < 1:
        raise OptionError(
            "input_shape must have 1 channel or more", received, "check the order C,H,W"
        )
    if not (8 <= height <= 512 and 8 <= width <= 512):
        raise OptionError(
            "input_shape must be 8 to 512 pixels a side",
            received,
            "pass the training size in the order C,H,W",
        )


def _check_preprocessing(
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    shape: tuple[int, int, int] | None,
) -> None:
    if (mean is None) != (std is None):
        raise OptionError(
            "mean and std must be given together",
            "only " + ("std" if mean is None else "mean"),
            "pass both, in units of the 0..1 pixel range",
        )
    if mean is None or std is None:
        return
    if len(mean) != len(std) or (shape is not None and len(mean) != shape[0]):
        raise OptionError(
            "mean and std must have one value per input channel",
            f"{len(mean)} and {len(std)} values",
            "pass as many as --input-shape has channels",
        )
    if not all(math.isfinite(x) for x in (*mean, *std)):
        raise OptionError("mean and std must be finite", f"{mean} and {std}", "pass numbers")
    if any(s <= 0 for s in std):
        raise OptionError(
            "std must be above 0", ",".join(str(s) for s in std), "pass the training std"
        )
