"""How far a share that was measured on a few images may lie from that on all such images."""

import math
from bisect import bisect_left
from collections.abc import Callable

__all__ = ["CONFIDENCE", "images_to_decide", "paired_drop_interval", "share_interval"]

CONFIDENCE = 0.95
"""Of the intervals: so often do they hold the true value."""

_Z = 1.959963984540054  # of the normal distribution, both sides

_TOO_MANY = 1000


def share_interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's interval of a share (E. B. Wilson, JASA 22, 1927): sensible at 0 and 1 too.

    Args:
        share: measured, 0..1.
        count: independent images behind it, at least 1.

    Returns:
        Lower and upper end, each 0..1.
    """
    weight = _Z * _Z / count
    centre = (share + weight / 2) / (1 + weight)
    half = _Z * math.sqrt(share * (1 - share) / count + weight / (4 * count)) / (1 + weight)
    # Rounding of floats must not push an end past the share, at 0 and 1.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def paired_drop_interval(lost: float, gained: float, count: int) -> tuple[float, float]:
    """Interval of a difference of two shares of the same images.

    Half an image more in each of the four cells: A. Agresti and Y. Min, Statistics in Medicine
    24, 2005. Images on which both are right or both are wrong say nothing of the difference.

    Args:
        lost: images that only the teacher gets right; a fraction where it is a forecast.
        gained: images that only the student gets right, likewise.
        count: all images, at least 1.

    Returns:
        Lower and upper end of the lost share, -1..1.
    """
    down, up, total = lost + 0.5, gained + 0.5, count + 2
    drop = (down - up) / total
    half = _Z * math.sqrt(down + up - (down - up) ** 2 / total) / total
    return max(-1.0, drop - half), min(1.0, drop + half)


def images_to_decide(
    interval: Callable[[int], tuple[float, float]], limit: float, count: int
) -> int | None:
    """About how many such images show on which side of ``limit`` a value lies.

    Args:
        interval: of the value as it was measured, had it been on so many images; it must get
            narrower with them.
        limit: in the unit of the interval.
        count: images that it was measured on.

    Returns:
        A number of two digits and zeros; None where the interval does not hold the limit, or
        where it would take a thousand times as many.
    """

    def decides(images: int) -> bool:
        low, high = interval(images)
        return not low < limit < high

    more = range(count + 1, _TOO_MANY * count + 1)
    index = bisect_left(more, True, key=decides)
    if decides(count) or index == len(more):
        return None
    unit: int = 10 ** max(len(str(more[index])) - 2, 0)
    return -(-more[index] // unit) * unit
