"""Which integers a tensor may hold: bit widths, ranges and the carriers of a runtime."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lrq_deploy.errors import OptionError

__all__ = [
    "MAX_BITS",
    "MIN_BITS",
    "ActSymmetry",
    "Depthwise",
    "IntegerRange",
    "LayerBits",
    "Scheme",
    "check_bits",
    "stored_bits",
]

MIN_BITS = 2
MAX_BITS = 8

ActSymmetry = Literal["symmetric", "asymmetric"]
Depthwise = Literal["int8", "float"]


@dataclass(frozen=True)
class IntegerRange:
    """Closed range ``qmin..qmax`` of the stored integers; ``real = scale * (q - zero_point)``."""

    qmin: int
    qmax: int

    @property
    def levels(self) -> int:
        """Number of representable values."""
        return self.qmax - self.qmin + 1


def check_bits(name: str, bits: int) -> None:
    """Raise OptionError unless ``bits`` is a supported width."""
    if not MIN_BITS <= bits <= MAX_BITS:
        raise OptionError(
            f"{name} must be in {MIN_BITS}..{MAX_BITS}",
            f"{bits}",
            f"pass a width from {MIN_BITS} to {MAX_BITS}",
        )


def stored_bits(bits: int) -> int:
    """Bits that a weight of ``bits`` takes in ``model.onnx``: 2, 4 or 8."""
    return next(width for width in (2, 4, 8) if bits <= width)


@dataclass(frozen=True)
class LayerBits:
    """Width of the weights of one layer.

    Attributes:
        layer: its key in the scale table, ``layers.NAME``.
        weight_bits: its width.
    """

    layer: str
    weight_bits: int

    def __post_init__(self) -> None:
        check_bits(f"weight_bits of {self.layer}", self.weight_bits)


@dataclass(frozen=True)
class Scheme:
    """Bit widths of one quantized network.

    Attributes:
        weight_bits: width of the weights of inner layers; gains per channel, which are what is
            left of a BatchNorm, always have 8.
        act_bits: width of the inputs of inner convolutions and linear layers.
        edge_bits: width of weights and inputs of the first and the last layer;
            ``None`` means "same as inner layers" (the input image always keeps 8 bits,
            which is what a camera delivers).
        residual_bits: width of tensors that additions, products, poolings and what is left of a
            BatchNorm read, at least ``act_bits`` where a layer reads them too: that then
            requantizes its own copy. ``None`` means ``act_bits``.
        act_symmetry: ``symmetric`` keeps every zero point at 0.
        depthwise: ``float`` keeps convolutions of few channels per group as they were in the
            teacher, see ``lrq_deploy.student.kept_float``.
        int4_linear: linear layers have INT4 weights in blocks and float activations, which is
            how TensorRT runs INT4.
        layer_bits: layers whose weights have a width of their own, which stands above all
            others; no layer twice.
    """

    weight_bits: int = 4
    act_bits: int = 4
    edge_bits: int | None = 8
    residual_bits: int | None = 8
    act_symmetry: ActSymmetry = "symmetric"
    depthwise: Depthwise = "int8"
    int4_linear: bool = False
    layer_bits: tuple[LayerBits, ...] = ()

    def __post_init__(self) -> None:
        check_bits("weight_bits", self.weight_bits)
        check_bits("act_bits", self.act_bits)
        if self.edge_bits is not None:
            check_bits("edge_bits", self.edge_bits)
        if self.residual_bits is not None:
            check_bits("residual_bits", self.residual_bits)
        if len({own.layer for own in self.layer_bits}) != len(self.layer_bits):
            raise OptionError(
                "layer_bits must name each layer once",
                ", ".join(own.layer for own in self.layer_bits),
                "drop the repeated ones",
            )
        if self.act_symmetry not in ("symmetric", "asymmetric"):
            raise OptionError(
                "act_symmetry must be 'symmetric' or 'asymmetric'",
                repr(self.act_symmetry),
                "pass one of the two",
            )
        if self.depthwise not in ("int8", "float"):
            raise OptionError(
                "depthwise must be 'int8' or 'float'", repr(self.depthwise), "pass one of the two"
            )
        if self.int4_linear and self.act_symmetry != "symmetric":
            raise OptionError(
                "int4_linear is for TensorRT, which takes only zero points of 0",
                f"act_symmetry {self.act_symmetry}",
                "pass --act-symmetry symmetric, or leave --int4-linear out",
            )

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> "Scheme":
        """The scheme whose ``dataclasses.asdict`` went through JSON."""
        own = tuple(LayerBits(**fields) for fields in document.get("layer_bits", ()))
        return Scheme(**{**document, "layer_bits": own})

    def own_bits(self, layer: str) -> int | None:
        """Width that a layer has for itself, None where it has none."""
        return next((own.weight_bits for own in self.layer_bits if own.layer == layer), None)

    def describe(self) -> str:
        """Short name such as ``W4A4, edge 8``; what is left at its default is not named."""
        name = f"W{self.weight_bits}A{self.act_bits}, edge {self.edge_bits or 'same'}"
        if self.layer_bits:
            widths = sorted(own.weight_bits for own in self.layer_bits)
            counts = ", ".join(f"{widths.count(b)} layers W{b}" for b in dict.fromkeys(widths))
            name = f"mixed A{self.act_bits}, edge {self.edge_bits or 'as inner'} ({counts})"
        if self.residual_bits != Scheme.residual_bits:
            name += f", residual {self.residual_bits or 'same'}"
        if self.act_symmetry != "symmetric":
            name += f", {self.act_symmetry}"
        if self.depthwise != "int8":
            name += f", depthwise {self.depthwise}"
        return f"{name}, INT4 linear" if self.int4_linear else name
