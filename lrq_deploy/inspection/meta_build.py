"""Known networks built without memory for their weights, for their names and shapes alone."""

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from lrq_deploy.inspection.signature import Entry, entry_of, name_templates

__all__ = ["LIBRARIES", "build_entries", "families", "meta_shapes"]

_FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.full, torch.randn, torch.rand}
_IN_PLACE = {"normal_", "uniform_", "zero_", "fill_", "copy_", "constant_", "ones_", "zeros_"}
_INITIALIZERS = {
    name for name in vars(nn.init) if name.endswith("_") and name[0] != "_"
} | _IN_PLACE
_SKIP_INIT = re.compile(r"googlenet|inception_v3|vgg")
_FAMILY = re.compile(r"(?:tf_|legacy_)?[a-z]+(?:v\d)?")
# Networks with auxiliary heads are known with and without them.
_AUXILIARY = ("googlenet", "inception_v3")
_IMAGENET_CLASSES = 1000


class _OnMeta(TorchFunctionMode):
    """Puts new tensors on the meta device and skips filling them.

    ``torch.device("meta")`` moves everything, on which constructors that compute (regnet,
    stochastic depth) fail.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        settings = dict(kwargs or {})
        if func in _FACTORIES:
            settings["device"] = "meta"
        elif getattr(func, "__name__", "") in _INITIALIZERS:
            target = args[0] if args else settings.get("tensor")
            if isinstance(target, torch.Tensor) and target.is_meta:
                return target
        return func(*args, **settings)


@contextmanager
def _building() -> Iterator[None]:
    with warnings.catch_warnings(), _OnMeta():
        warnings.simplefilter("ignore")
        yield


def _torchvision(name: str, **settings: Any) -> nn.Module:
    import torchvision

    if _SKIP_INIT.match(name):
        settings["init_weights"] = False
    module: nn.Module = torchvision.models.get_model(name, weights=None, **settings)
    return module


def _timm(name: str) -> nn.Module:
    import timm

    module: nn.Module = timm.create_model(name, pretrained=False)
    return module


LIBRARIES: Mapping[str, Callable[..., nn.Module]] = {"torchvision": _torchvision, "timm": _timm}


def meta_shapes(library: str, name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the state dict of a known network with its own number of classes."""
    with _building():
        return _shapes(LIBRARIES[library](name))


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


_BUILD_FAULTS = (
    *(RuntimeError, TypeError, ValueError, AttributeError, LookupError),
    *(AssertionError, ArithmeticError, ImportError),
)
"""What a library's constructor raises for want of real values or of an optional package."""


def build_entries(library: str, names: Iterable[str]) -> Iterator[tuple[Entry, frozenset[str]]]:
    """Signature and name templates of each network; one that cannot be built is left out."""
    with _building():
        for name in names:
            for settings in _variants(library, name):
                try:
                    module = LIBRARIES[library](name, **settings)
                except _BUILD_FAULTS:
                    continue
                shapes = _shapes(module)
                entry = entry_of(name, shapes, _classes(module), _classifier(module))
                yield entry, name_templates(shapes)


def _variants(library: str, name: str) -> list[dict[str, bool]]:
    if library == "torchvision" and name in _AUXILIARY:
        return [{"aux_logits": True}, {"aux_logits": False}]
    return [{}]


def _classes(module: nn.Module) -> int:
    classes = getattr(module, "num_classes", _IMAGENET_CLASSES)
    return classes if isinstance(classes, int) else _IMAGENET_CLASSES


def _classifier(module: nn.Module) -> tuple[str, ...]:
    """Classifying modules as timm states them; torchvision has no other tensor of 1,000 rows."""
    known = (getattr(module, "pretrained_cfg", None) or {}).get("classifier") or ()
    return (known,) if isinstance(known, str) else tuple(known)


def families(library: str) -> dict[str, list[str]]:
    """All classifiers of a library; timm's by module and leading word, torchvision's as one.

    Raises:
        ImportError: the library is not installed.
    """
    if library == "torchvision":
        import torchvision

        return {"all": sorted(torchvision.models.list_models(module=torchvision.models))}
    import timm

    found: dict[str, list[str]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in timm.list_modules():
            for name in timm.list_models(module=module):
                word = _FAMILY.match(name)
                found.setdefault(f"{module}/{word.group() if word else name}", []).append(name)
    return found
