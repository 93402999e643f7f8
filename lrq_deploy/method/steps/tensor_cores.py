"""TF32 on CUDA: float32 convolutions and products on tensor cores, with 10 bits of mantissa."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["tf32"]


@contextmanager
def tf32(device: torch.device) -> Iterator[None]:
    """Allow TF32 inside; what was set before holds again afterwards. Nothing where not on CUDA.

    For training alone: exponents are those of float32, but products lose 13 bits of mantissa.
    """
    if device.type != "cuda":
        yield
        return
    conv = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    kinds = (torch.backends.cuda.matmul, conv)
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "tf32"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision
