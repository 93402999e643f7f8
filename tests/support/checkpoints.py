"""Weights of a small network, as checkpoints hold them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

KINDS = ("zip", "legacy", "safetensors")
"""Of files that hold weights."""


def small_weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "conv.weight": torch.randn(4, 3, 3, 3, generator=generator),
        "bn.running_var": torch.rand(4, generator=generator) + 0.5,
        "bn.num_batches_tracked": torch.tensor(7),
        "fc.weight": torch.randn(5, 4, generator=generator),
    }


def equal_tensors(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[n], wanted[n]) for n in wanted)


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in small_weights().items()}


def write_changed(
    path: Path, weights: Mapping[str, Tensor], kind: str, data: st.DataObject
) -> None:
    """A file of one of ``KINDS`` with one to four bytes drawn anew."""
    if kind == "safetensors":
        save_file(dict(weights), path)
    else:
        torch.save(dict(weights), path, _use_new_zipfile_serialization=kind == "zip")
    changed = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path.unlink()
    path.write_bytes(changed)
