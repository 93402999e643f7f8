"""A benchmark as one picture: a bar per graph and batch size, up to the median, with its tail."""

import io
import math
from typing import TYPE_CHECKING

from lrq_deploy.export.measures.latency import Benchmark, Distribution

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

__all__ = ["latency_png"]

_COLOURS = {"float": (150, 150, 150), "quantized": (20, 120, 90), "static": (230, 150, 60)}
_INK, _PAPER, _FAINT, _TAIL = (30, 30, 30), (255, 255, 255), (120, 120, 120), (60, 60, 60)
_ROOM = 1.5  # of the largest median, for the lines
_ROW, _MARGIN, _GAP, _SIZE, _BAR, _LABEL = 22, 16, 10, 13, 420, 150


def latency_png(found: Benchmark) -> bytes:
    """PNG of a benchmark; the same figures give the same bytes.

    A bar ends at the 50th percentile in milliseconds per image; the line behind it reaches to
    the 90th. All bars share one scale, which starts at 0.
    """
    from PIL import Image, ImageDraw, ImageFont

    rows = [
        (f"batch {batch.batch_size}, {name}", name, times, batch.batch_size)
        for batch in found.batches
        for name, times in batch.graphs().items()
    ]
    font = ImageFont.load_default(_SIZE)
    heading = f"{found.runtime}, threads {found.options.threads}, {found.cpu}"
    names = math.ceil(max(font.getlength(label) for label, *_ in rows)) + _GAP
    wide = max(names + _BAR + _LABEL, math.ceil(font.getlength(heading))) + 2 * _MARGIN
    image = Image.new("RGB", (wide, (len(rows) + 2) * _ROW + 2 * _MARGIN), _PAPER)
    draw = ImageDraw.Draw(image)
    draw.font = font
    draw.text((_MARGIN, _MARGIN), heading, _INK)
    unit = "median milliseconds per image, line to the 90th percentile"
    draw.text((_MARGIN, _MARGIN + _ROW), unit, _FAINT)
    largest = _ROOM * max(times.p50_ms / size for _, _, times, size in rows)
    for index, (label, name, times, size) in enumerate(rows):
        top = _MARGIN + (index + 2) * _ROW
        draw.text((_MARGIN, top + 3), label, _INK)
        _bar(draw, (_MARGIN + names, top), times, size, _COLOURS[name], largest)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _bar(
    draw: "ImageDraw",
    corner: tuple[int, int],
    times: Distribution,
    images: int,
    colour: tuple[int, int, int],
    largest: float,
) -> None:
    left, top = corner
    usual, slow = (
        min(round(_BAR * ms / images / largest), _BAR) for ms in (times.p50_ms, times.p90_ms)
    )
    draw.rectangle((left, top + 3, left + usual, top + _ROW - 4), fill=colour)
    middle = top + _ROW // 2
    draw.line((left + usual, middle, left + slow, middle), fill=_TAIL)
    draw.text((left + slow + _GAP, top + 3), f"{times.p50_ms / images:.3f} ms", _INK)
