"""Multiplications in bfloat16, where the device is made for them.

Only the float network, the generator and a coarse student are multiplied so, and only while
they are trained: what ships is evaluated in float32 and in integers.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from lrq_deploy.student.layers import QuantizedLayer

__all__ = [
    "COARSE_BITS",
    "coarsest_bits",
    "multiplies_bfloat16",
    "reduced_precision",
]

COARSE_BITS = 4
"""A step of this grid is 30 times one of bfloat16. The rates of a recipe are made for it too."""

_CPU_FEATURES = ("avx512_bf16", "amx_bf16")


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether training on ``device`` is faster in bfloat16 than in float32."""
    # An H100 lost a fifth of the time of a run to the casts; it multiplies in TF32 as it is.
    if device.type == "cuda":
        return False
    found = torch.cpu.get_capabilities()
    return any(found.get(feature, False) for feature in _CPU_FEATURES)


def coarsest_bits(student: nn.Module) -> int:
    """The smallest width of its weights; 4 where it has none."""
    bits = [m.bits for m in student.modules() if isinstance(m, QuantizedLayer)]
    return min(bits, default=COARSE_BITS)


def reduced_precision(device: torch.device, wanted: bool) -> AbstractContextManager[object]:
    """Autocast to bfloat16 on ``device`` if it is ``wanted`` and pays; otherwise nothing."""
    if not wanted or not multiplies_bfloat16(device):
        return nullcontext()
    # Casts of weights would be kept, over steps too, until the outermost autocast ends.
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)
