"""A network with random weights from its name, and what the name tells of its input."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn

from lrq_deploy.architecture.user_file import build_from_file
from lrq_deploy.errors import CheckpointError, OptionError
from lrq_deploy.teacher import Interpolation

__all__ = ["LIBRARIES", "Architecture", "build_architecture", "trained_as"]

# Their released weights normalise again inside (transform_input), which together with the
# ImageNet mean and std is exactly mean 0.5 and std 0.5 without the inner step.
_HALF_NORMALISED = {"googlenet", "inception_v3"}
_AUXILIARY_PREFIXES = ("aux1.", "aux2.", "AuxLogits.")


@dataclass(frozen=True)
class Architecture:
    """A network that awaits its weights.

    Attributes:
        module: in evaluation mode, float32, random weights, on the CPU.
        name: for reports.
        input_shape: ``(C, H, W)`` that its released weights use; ``None`` if unknown.
        mean, std: per channel, in units of the 0..1 pixel range; ``None`` if unknown.
        resize: shorter side in pixels before the centre crop to ``input_shape``; ``None`` if
            unknown or resized directly.
        interpolation: of resized images.
        optional_prefixes: names that a state dict may hold beyond the network's own.
    """

    module: nn.Module
    name: str
    input_shape: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: int | None = None
    interpolation: Interpolation = "bilinear"
    optional_prefixes: tuple[str, ...] = ()


def build_architecture(spec: str, num_classes: int | None = None) -> Architecture:
    """Build the network that ``spec`` names; nothing is downloaded.

    Args:
        spec: ``torchvision:NAME``, ``timm:NAME`` or ``FILE.py:FACTORY``.
        num_classes: length of a row of logits; ``None`` takes the network's default.

    Raises:
        OptionError: malformed, an unknown name, or a package, file or factory that is absent.
        CheckpointError: the user's file or factory fails.
    """
    source, separator, name = spec.rpartition(":")
    if not separator or not source.strip() or not name.strip():
        raise OptionError(
            "--arch must be torchvision:NAME, timm:NAME or FILE.py:FACTORY",
            repr(spec),
            "write for instance torchvision:resnet18 or net.py:build",
        )
    if source in LIBRARIES:
        return LIBRARIES[source](name, num_classes)
    if source.partition(":")[0] in LIBRARIES:
        raise OptionError(
            "a network's name must be known without a download", repr(spec), "drop the second ':'"
        )
    network = build_from_file(Path(source).expanduser(), name, num_classes)
    return Architecture(_ready(network), name)


def _ready(module: nn.Module) -> nn.Module:
    return module.cpu().float().eval()


def _from_torchvision(name: str, num_classes: int | None) -> Architecture:
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise _other_task(name) or _unknown("torchvision", name, names)
    settings: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if name in _HALF_NORMALISED:
        settings |= {"aux_logits": False, "transform_input": False, "init_weights": False}
    elif name.startswith("vgg"):
        settings["init_weights"] = False
    with _quiet(), _building(f"torchvision:{name}"):
        module = torchvision.models.get_model(name, weights=None, **settings)
    # The enum's transforms are plain numbers; only get_state_dict would download.
    crop = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    size, resize = int(crop.crop_size[0]), int(crop.resize_size[0])
    built_for = getattr(module, "image_size", size)
    if isinstance(built_for, int) and built_for != size:
        size, resize = built_for, built_for
    half = name in _HALF_NORMALISED
    return Architecture(
        _ready(module),
        name,
        (3, size, size),
        (0.5,) * 3 if half else tuple(float(m) for m in crop.mean),
        (0.5,) * 3 if half else tuple(float(s) for s in crop.std),
        resize,
        _interpolation(crop.interpolation.value),
        _AUXILIARY_PREFIXES if half else (),
    )


def _from_timm(name: str, num_classes: int | None) -> Architecture:
    try:
        import timm
    except ImportError:
        raise OptionError(
            "timm:NAME needs the timm package",
            f"timm:{name} without it",
            "install it with: python -m pip install 'lrq-deploy[timm]'",
        ) from None
    with _quiet():
        if "/" in name or not timm.is_model(name):
            raise _unknown("timm", name, timm.list_models())
        with _building(f"timm:{name}"):
            settings: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
            module = timm.create_model(name, pretrained=False, **settings)
    known = getattr(module, "pretrained_cfg", None) or {}
    return trained_as(Architecture(_ready(module), name), dict(known))


LIBRARIES: Mapping[str, Callable[[str, int | None], Architecture]] = {
    "torchvision": _from_torchvision,
    "timm": _from_timm,
}
"""What ``SOURCE`` of ``--arch SOURCE:NAME`` may be beside a file."""


def trained_as(architecture: Architecture, known: Mapping[str, Any]) -> Architecture:
    """The same network with what a ``pretrained_cfg`` of timm tells of its input.

    Args:
        architecture: what it does not tell stays as it is there.
        known: of it ``input_size``, ``mean``, ``std``, ``crop_pct``, ``crop_mode`` and
            ``interpolation`` are read.
    """
    told: dict[str, Any] = {}
    shape = tuple(known.get("input_size") or ())
    if len(shape) == 3:
        told = {"input_shape": shape, "resize": None}
        if known.get("crop_mode", "center") == "center" and known.get("crop_pct"):
            told["resize"] = int(min(shape[1:]) / float(known["crop_pct"]))
    if known.get("interpolation"):
        told["interpolation"] = _interpolation(known["interpolation"])
    for key in ("mean", "std"):
        if known.get(key):
            told[key] = tuple(float(x) for x in known[key])
    return replace(architecture, **told)


def _interpolation(stated: object) -> Interpolation:
    """Anything else that a library may state is read as bilinear, its own default."""
    return "bicubic" if stated == "bicubic" else "bilinear"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _building(spec: str) -> Iterator[None]:
    try:
        yield
    # A library's constructor may raise anything for an unusual number of classes.
    except Exception as error:
        raise CheckpointError(
            "the named network must build",
            f"{type(error).__name__} from {spec}: {str(error)[:200]}",
            "check the number of classes in the checkpoint, or pass FILE.py:FACTORY",
        ) from error


def _other_task(name: str) -> OptionError | None:
    """Of a network that torchvision has for something else; None of any other name."""
    from torchvision import models

    kinds = {models.detection: "a detector", models.segmentation: "for segmentation"}
    for module, kind in kinds.items():
        if name in models.list_models(module=module):
            return OptionError(
                "torchvision:NAME must be a classifier that torchvision has",
                f"{name!r}, which is {kind}",
                "detection and segmentation heads are not supported; pass a classifier",
            )
    return None


def _unknown(library: str, name: str, names: list[str]) -> OptionError:
    close = get_close_matches(name, names, 5, 0.5)
    return OptionError(
        f"{library}:NAME must be a classifier that {library} has",
        repr(name),
        f"the closest names are {', '.join(close)}" if close else "check the spelling",
    )
