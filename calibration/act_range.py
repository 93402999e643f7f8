"""The integers of one activation and what they stand for."""

from dataclasses import dataclass

from torch import Tensor

from lrq_deploy.calibration.ranges import extreme_range, search_act_range, whole_range
from lrq_deploy.scheme import IntegerRange
from lrq_deploy.student.layers import ActQuantizer

__all__ = ["ActRange", "fit_act_range"]


@dataclass(frozen=True)
class ActRange:
    """``real = scale * (q - zero_point)`` with ``q`` within ``bounds``."""

    scale: float
    zero_point: int
    bounds: IntegerRange


def fit_act_range(
    quantizer: ActQuantizer,
    values: Tensor,
    bounds: IntegerRange,
    symmetric: bool,
    search: bool = True,
) -> ActRange:
    """Range of what ``quantizer`` receives.

    With zero point 0, signed integers lie where the values do if the runtimes have room around
    them: hard-swish at 4 bits takes -1..14, not -8..7, and so at 8 bits where uint8 is the carrier.

    Args:
        quantizer: its signs, what its runtimes hold, and its range where that is known.
        values: flat sample of the tensor; not read where the range is known.
        bounds: as many integers as the width allows.
        symmetric: keep the zero point at 0.
        search: clip where that loses least; otherwise nothing is clipped.

    Raises:
        DivergenceError: a value is NaN or infinite.
    """
    # Values that are all 0 do not say where others would lie.
    told = quantizer.known_range is not None or bool(values.any())
    has_room = bounds.levels - 1 <= quantizer.carrier_qmax
    slides = symmetric and quantizer.signed and has_room and told
    frame = IntegerRange(0, bounds.levels - 1) if slides else bounds
    centred = symmetric and not slides
    if quantizer.known_range is not None:
        scale, zero_point = whole_range(*quantizer.known_range, frame, centred)
    elif search:
        scale, zero_point = search_act_range(values, frame, quantizer.signed, centred)
    else:
        scale, zero_point = extreme_range(values, frame, centred)
    if slides:
        return ActRange(scale, 0, IntegerRange(-zero_point, frame.qmax - zero_point))
    return ActRange(scale, zero_point, bounds)
