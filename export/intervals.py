"""How far a share that was measured on a few images may lie from that on all such images."""

import math

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


def paired_drop_interval(lost: int, gained: int, count: int) -> tuple[float, float]:
    """Interval of a difference of two shares of the same images.

    Half an image more in each of the four cells: A. Agresti and Y. Min, Statistics in Medicine
    24, 2005. Images on which both are right or both are wrong say nothing of the difference.

    Args:
        lost: images that only the teacher gets right.
        gained: images that only the student gets right.
        count: all images, at least 1.

    Returns:
        Lower and upper end of the lost share, -1..1.
    """
    down, up, total = lost + 0.5, gained + 0.5, count + 2
    drop = (down - up) / total
    half = _Z * math.sqrt(down + up - (down - up) ** 2 / total) / total
    return max(-1.0, drop - half), min(1.0, drop + half)


def images_to_decide(
    value: float, interval: tuple[float, float], limit: float, count: int
) -> int | None:
    """About how many such images show on which side of ``limit`` the value lies.

    Widths shrink with the square root of the count.

    Args:
        value: measured.
        interval: of the value, in its unit.
        limit: in its unit.
        count: images behind the interval.

    Returns:
        A number of two digits and zeros; None where the interval does not hold the limit, or
        where it would take a thousand times as many.
    """
    low, high = interval
    times_narrower = (high - low) / (2 * max(abs(value - limit), 1e-12))
    if not low < limit < high or times_narrower**2 > _TOO_MANY:
        return None
    needed = count * times_narrower**2
    unit = 10.0 ** max(math.floor(math.log10(needed)) - 1, 0)
    return max(math.ceil(needed / unit) * int(unit), count + 1)
