"""What identifies an architecture: the names and shapes of its state dict, as hashes."""

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "FEWEST_TENSORS",
    "Entry",
    "Fit",
    "entry_of",
    "first_word",
    "fit_of",
    "name_templates",
    "names_hash",
    "shapes_hash",
    "weights_of",
]

Shapes = Mapping[str, Sequence[int]]

# AlexNet is the smallest of both libraries.
FEWEST_TENSORS = 16

_COUNTER = "num_batches_tracked"
_NUMBER = re.compile(r"\d+")
_DIGITS = 20


@dataclass(frozen=True)
class Entry:
    """One known architecture.

    Attributes:
        name: as its library calls it.
        names: hash of the names of its state dict.
        shapes: hash of names and shapes, with the number of classes left open.
        class_tensors: those whose first size is the number of classes.
        num_classes: that the library builds unless told otherwise; 0 without a classifier.
        tops: first words of its names.
        body_names, body_shapes: hashes without the first words of ``class_tensors``; empty where
            too little is left to tell a network by.
    """

    name: str
    names: str
    shapes: str
    class_tensors: tuple[str, ...]
    num_classes: int
    tops: tuple[str, ...]
    body_names: str
    body_shapes: str

    @property
    def body_tops(self) -> tuple[str, ...]:
        """First words of the names outside the classifier."""
        head = {first_word(name) for name in self.class_tensors}
        return tuple(top for top in self.tops if top not in head)


@dataclass(frozen=True)
class Fit:
    """How a state dict relates to an architecture that has the same names.

    Attributes:
        shapes_fit: whether all shapes agree but for the number of classes.
        num_classes: of the state dict; ``None`` where it has no classifier or no fit.
    """

    shapes_fit: bool
    num_classes: int | None = None


def weights_of(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Without the counters of BatchNorm, which older checkpoints lack."""
    return {name: tuple(s) for name, s in shapes.items() if not name.endswith(_COUNTER)}


def first_word(name: str) -> str:
    """Of a dotted name: the module at the top that holds the tensor."""
    return name.split(".", 1)[0]


def name_templates(shapes: Shapes) -> frozenset[str]:
    """Names with every number replaced, which the members of a family share."""
    return frozenset(_NUMBER.sub("#", name) for name in weights_of(shapes))


def names_hash(shapes: Shapes) -> str:
    """Hash of the names, whatever their order."""
    return _digest(sorted(weights_of(shapes)))


def entry_of(name: str, shapes: Shapes, num_classes: int, classifier: Collection[str]) -> Entry:
    """Signature of a network.

    Args:
        name: as its library calls it.
        shapes: of its state dict.
        num_classes: length of a row of its logits, 0 if it has no classifier.
        classifier: names of its classifying modules where known; otherwise every tensor whose
            first size is ``num_classes`` counts.
    """
    weights = weights_of(shapes)
    classes = tuple(
        tensor
        for tensor, shape in weights.items()
        if num_classes > 0 and shape and shape[0] == num_classes and _below(tensor, classifier)
    )
    head = {first_word(tensor) for tensor in classes}
    body = {n: shape for n, shape in weights.items() if first_word(n) not in head}
    known = bool(head) and len(body) >= FEWEST_TENSORS
    return Entry(
        name=name,
        names=names_hash(weights),
        shapes=shapes_hash(weights, classes),
        class_tensors=classes,
        num_classes=num_classes,
        tops=tuple(dict.fromkeys(first_word(n) for n in weights)),
        body_names=names_hash(body) if known else "",
        body_shapes=shapes_hash(body) if known else "",
    )


def fit_of(shapes: Shapes, entry: Entry) -> Fit:
    """Compare a state dict with an architecture of the same names."""
    weights = weights_of(shapes)
    sizes = {weights[name][:1] for name in entry.class_tensors}
    if len(sizes) > 1 or shapes_hash(weights, entry.class_tensors) != entry.shapes:
        return Fit(False)
    size = next(iter(sizes), ())
    return Fit(True, size[0] if size else None)


def _below(tensor: str, modules: Collection[str]) -> bool:
    return not modules or any(tensor.startswith(f"{module}.") for module in modules)


def shapes_hash(weights: Mapping[str, tuple[int, ...]], class_tensors: Collection[str] = ()) -> str:
    """Hash of names and shapes, the first size of ``class_tensors`` left open."""
    lines = []
    for name in sorted(weights):
        sizes = [str(size) for size in weights[name]]
        if name in class_tensors:
            sizes[:1] = ["classes"]
        lines.append(f"{name}:{','.join(sizes)}")
    return _digest(lines)


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:_DIGITS]
