"""How much each layer's weights and each activation lose at each bit width."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["PROBED_WIDTHS", "SENSITIVITY_SCHEMA", "Damage", "Sensitivity", "SensitivityTable"]

SENSITIVITY_SCHEMA = 1

PROBED_WIDTHS = (2, 3, 4, 8)
"""Widths that are measured: the packed ones, and one byte."""

Kind = Literal["weight", "activation"]


@dataclass(frozen=True)
class Damage:
    """What the network loses where one tensor alone is quantized and all else is float.

    Attributes:
        bits: width of the tensor.
        kl: ``KL(teacher || student)`` of the softmax, in nats, mean over the images.
        agreement: share of images with the teacher's answer, 0..1.
        drop_points: accuracy lost if labels were drawn from the teacher's own softmax:
            ``100 * mean(p[teacher's answer] - p[student's answer])``, 0 or more.
    """

    bits: int
    kl: float
    agreement: float
    drop_points: float


@dataclass(frozen=True)
class Sensitivity:
    """One tensor at all probed widths.

    Attributes:
        name: key of the scale table, ``layers.NAME`` or ``quantizers.NAME``.
        kind: weight of a layer, or activation.
        elements: number of weights, or of values per image.
        layers: the layer itself, or the layers that read the activation (none where only
            additions and poolings do).
        damages: one per width, narrowest first.
    """

    name: str
    kind: Kind
    elements: int
    layers: tuple[str, ...]
    damages: tuple[Damage, ...]

    def at(self, bits: int) -> Damage:
        """The damage at a probed width."""
        return next(damage for damage in self.damages if damage.bits == bits)


@dataclass(frozen=True)
class SensitivityTable:
    """All tensors of a network, in graph order.

    Attributes:
        network: its name.
        images: number of synthetic images that it was measured on.
        entries: weights first, then activations.
    """

    network: str
    images: int
    entries: tuple[Sensitivity, ...]

    def of(self, kind: Kind) -> tuple[Sensitivity, ...]:
        """Entries of a kind, in graph order."""
        return tuple(entry for entry in self.entries if entry.kind == kind)

    def ranked(self, kind: Kind, bits: int) -> tuple[Sensitivity, ...]:
        """Entries of a kind, the most damaging at ``bits`` first."""
        return tuple(sorted(self.of(kind), key=lambda entry: -entry.at(bits).kl))

    def to_json(self) -> dict[str, Any]:
        """Plain values with the schema version, and the ranking by kind and width."""
        ranking = {
            kind: {str(b): [e.name for e in self.ranked(kind, b)] for b in PROBED_WIDTHS}
            for kind in ("weight", "activation")
        }
        return {"schema_version": SENSITIVITY_SCHEMA, **asdict(self), "ranking": ranking}
