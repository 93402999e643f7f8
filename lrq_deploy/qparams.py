"""The scale table: the single truth from which every graph is written."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lrq_deploy.stored_schema import check_schema

__all__ = ["SCALE_TABLE_SCHEMA", "QParams", "ScaleTable", "per_channel"]

SCALE_TABLE_SCHEMA = 1


def per_channel(values: Tensor, axis: int, dims: int) -> Tensor:
    """``values`` ``[C]`` along ``axis`` of ``dims`` axes, all others of size 1."""
    shape = [1] * dims
    shape[axis] = -1
    return values.reshape(shape)


@dataclass(frozen=True)
class QParams:
    """How one tensor maps to integers: ``real = scale * (q - zero_point)``.

    Attributes:
        kind: ``activation`` (per tensor) or ``weight`` (per output channel).
        scale: float32, shape ``[]`` for per tensor or ``[C]`` for per channel, all > 0.
        zero_point: int32, the shape of ``scale``, within ``qmin..qmax`` or 0.
        qmin: smallest stored integer.
        qmax: largest stored integer.
        bits: nominal width that the user asked for.
        axis: channel axis of a per-channel tensor, ``None`` for per tensor.
    """

    kind: Literal["activation", "weight"]
    scale: Tensor
    zero_point: Tensor
    qmin: int
    qmax: int
    bits: int
    axis: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields that are not tensors."""
        return {
            "kind": self.kind,
            "qmin": self.qmin,
            "qmax": self.qmax,
            "bits": self.bits,
            "axis": self.axis,
        }


@dataclass(frozen=True)
class ScaleTable:
    """All quantization parameters of a network, by name of the quantized tensor.

    Names are module paths in the student graph: ``quantizers.NAME`` for activations,
    ``layers.NAME`` for the weight of a layer.
    """

    entries: Mapping[str, QParams]

    def __getitem__(self, name: str) -> QParams:
        return self.entries[name]

    def tensors(self) -> dict[str, Tensor]:
        """``NAME.scale`` and ``NAME.zero_point`` for a safetensors file."""
        flat: dict[str, Tensor] = {}
        for name, qparams in self.entries.items():
            flat[f"{name}.scale"] = qparams.scale.contiguous()
            flat[f"{name}.zero_point"] = qparams.zero_point.contiguous()
        return flat

    def to_json(self) -> dict[str, Any]:
        """Everything but the tensors, with the schema version."""
        entries = {name: qparams.to_json() for name, qparams in self.entries.items()}
        return {"schema_version": SCALE_TABLE_SCHEMA, "entries": entries}

    @staticmethod
    def from_json(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "ScaleTable":
        """Rebuild a table from ``to_json`` and ``tensors``.

        Raises:
            BundleError: the document has another schema version.
        """
        check_schema("the scale table", document.get("schema_version"), (SCALE_TABLE_SCHEMA,))
        entries = {
            name: QParams(
                scale=tensors[f"{name}.scale"].to(torch.float32),
                zero_point=tensors[f"{name}.zero_point"].to(torch.int32),
                **fields,
            )
            for name, fields in document["entries"].items()
        }
        return ScaleTable(entries)
