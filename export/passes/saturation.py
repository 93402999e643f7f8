"""Bounds on the 16-bit partial sums of x86 integer kernels."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["pair_sums_fit"]

_INT16_MAX = 2**15 - 1


def pair_sums_fit(weight: NDArray[np.int8], axis: int, carrier_max: int) -> bool:
    """Whether ``VPMADDUBSW`` is exact for this layer on every input.

    Without VNNI, the u8 x s8 kernels of x86 add two products into a saturating 16-bit number:
    ``a0 w0 + a1 w1`` with ``0 <= a <= carrier_max`` (Intel SDM, PMADDUBSW). Which two weights
    meet depends on the kernel's packing, so the two largest of one sign in an output channel
    are taken: the extreme sum has ``a = carrier_max`` at weights of one sign and 0 elsewhere.

    Args:
        weight: integers of any layout.
        axis: output channel axis.
        carrier_max: largest stored activation, 0..255.
    """
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.int64)
    if rows.size == 0:
        return True
    positive = np.sort(np.clip(rows, 0, None), axis=1)[:, -2:].sum(axis=1)
    negative = np.sort(np.clip(-rows, 0, None), axis=1)[:, -2:].sum(axis=1)
    # The negative side may reach -32768; one step of it is given away for symmetry.
    return bool(max(positive.max(), negative.max()) * carrier_max <= _INT16_MAX)
