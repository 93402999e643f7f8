"""A Python file to start from: a known network with the classifier that a state dict shows."""

import posixpath
from collections.abc import Mapping

from lrq_deploy.inspection.signature import Entry, first_word

__all__ = ["Head", "head_example"]

Head = Mapping[str, tuple[int, ...]]
"""Shapes of tensors by name."""

_MAX_LAYERS = 20
_GAP = "# each ... is a layer without weights, such as nn.Dropout(0.5) or nn.ReLU()"
_OPEN = "# ... is what your training code has there"


def head_example(library: str, entry: Entry, prefix: str, head: Head, outside: Head) -> str:
    """Python text with a factory ``build`` or a class ``Network``.

    What no tensor shows is written as ``...``, which does not run before it is filled in.

    Args:
        library: ``torchvision`` or ``timm``.
        entry: network of the same body.
        prefix: of the names in the file that belong to ``entry``.
        head: tensors beside the body, by their names in the network.
        outside: tensors outside of the prefix, by their names in the file.
    """
    tops = {first_word(name) for name in outside}
    classifier = _common_module(list(entry.class_tensors))
    # Names in the file become code here: only plain words may.
    plain = all(word.isidentifier() for word in (prefix[:-1], *tops))
    if len(tops) == 1 and classifier and not head and plain:
        body = f"{prefix}{classifier}"
        return _wrapper(_constructor(library, entry.name), body, tops.pop(), outside)
    module = _common_module([*head, *entry.class_tensors])
    inside = {name: shape for name, shape in head.items() if name.startswith(f"{module}.")}
    known = bool(module) and not outside and len(inside) == len(head)
    expression = _expression({n.removeprefix(f"{module}."): s for n, s in inside.items()})
    expression = expression if known else "..."
    constructor = _constructor(library, entry.name)
    place = module if known else first_word(entry.class_tensors[0])
    return "\n".join(
        (
            *_imports(constructor, expression),
            "",
            "def build():",
            f"    network = {constructor}",
            f"    network.{place} = {expression}",
            "    return network",
            *_remark(expression),
        )
    )


def _wrapper(constructor: str, classifier: str, top: str, outside: Head) -> str:
    """The body as one attribute of a module, the head as another."""
    head = _expression({name.removeprefix(f"{top}."): s for name, s in outside.items()})
    body = first_word(classifier)
    return "\n".join(
        (
            *_imports(constructor, head),
            "",
            "class Network(nn.Module):",
            "    def __init__(self):",
            "        super().__init__()",
            f"        self.{body} = {constructor}",
            f"        self.{classifier} = nn.Identity()",
            f"        self.{top} = {head}",
            "",
            "    def forward(self, x):",
            f"        return self.{top}(self.{body}(x))",
            *_remark(head),
        )
    )


def _remark(expression: str) -> list[str]:
    if "..." not in expression:
        return []
    return [_OPEN if expression == "..." else _GAP]


def _imports(constructor: str, head: str) -> list[str]:
    lines = [f"import {first_word(constructor)}", "from torch import nn"]
    return ["from collections import OrderedDict", *lines] if "OrderedDict" in head else lines


def _constructor(library: str, name: str) -> str:
    if library == "torchvision":
        return f"torchvision.models.get_model({name!r})"
    return f"timm.create_model({name!r})"


def _common_module(names: list[str]) -> str:
    """Path of the deepest module that holds all tensors."""
    modules = [name.rpartition(".")[0].replace(".", "/") for name in names]
    return posixpath.commonpath(modules).replace("/", ".")


def _expression(tensors: Head) -> str:
    """A layer, or a sequence of layers numbered by the names; ``...`` for anything else."""
    layers: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in tensors.items():
        module, _, leaf = name.rpartition(".")
        layers.setdefault(module, {})[leaf] = shape
    if len(layers) == 1:
        ((path, only),) = layers.items()
        words = path.split(".") if path else []
        # A number tells of layers before it, which may have no tensors.
        if not any(word.isdecimal() for word in words):
            return _nested(words, _layer(only))
    if not layers or not all(name.isdecimal() for name in layers):
        return "..."
    count = max(int(name) for name in layers) + 1
    if count > _MAX_LAYERS:
        return "..."
    shown = [_layer(layers.get(str(number), {})) for number in range(count)]
    return f"nn.Sequential({', '.join(shown)})"


def _nested(words: list[str], layer: str) -> str:
    """A layer that is an attribute of modules without others, such as ``fc`` of a ``head.fc``."""
    if layer == "...":
        return layer
    for word in reversed(words):
        layer = f"nn.Sequential(OrderedDict({{{word!r}: {layer}}}))"
    return layer


def _layer(tensors: Mapping[str, tuple[int, ...]]) -> str:
    weight = tensors.get("weight", ())
    if len(weight) == 2:
        bias = "" if "bias" in tensors else ", bias=False"
        return f"nn.Linear({weight[1]}, {weight[0]}{bias})"
    if len(weight) == 1 and "running_mean" in tensors:
        return f"nn.BatchNorm1d({weight[0]})"
    return "..."
