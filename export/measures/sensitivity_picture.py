"""The sensitivity table as one picture: a row per layer, a column per width, dark is damage."""

import io
import math
from typing import TYPE_CHECKING

from lrq_deploy.sensitivity import PROBED_WIDTHS, Sensitivity, SensitivityTable

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

__all__ = ["sensitivity_png"]

# The scale of colours in nats: below the first no answer changes, above the last most do.
_LOW, _HIGH = 1e-5, 1.0
_PALE, _WARM, _DARK = (255, 250, 240), (240, 130, 50), (110, 10, 30)
_INK, _PAPER, _FAINT = (30, 30, 30), (255, 255, 255), (120, 120, 120)
_ROW, _CELL, _MARGIN, _GAP, _SIZE = 22, 62, 16, 18, 13
_TITLE_ROWS = 3


def sensitivity_png(table: SensitivityTable) -> bytes:
    """PNG of a table; the same table gives the same bytes.

    Each cell shows the KL divergence in nats with one tensor quantized, on a logarithmic scale
    of colours. Rows are layers with the activation that they read, then the activations that
    no layer reads, in graph order.

    Args:
        table: what was measured.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_SIZE)
    rows = _rows(table)
    name_width = math.ceil(max(font.getlength(name) for name, _, _ in rows)) + _GAP
    block = len(PROBED_WIDTHS) * _CELL
    title = f"{table.network}: what each tensor loses when it alone is quantized"
    wide = max(name_width + 2 * block + _GAP, math.ceil(font.getlength(title))) + 2 * _MARGIN
    tall = (len(rows) + _TITLE_ROWS) * _ROW + 2 * _MARGIN
    image = Image.new("RGB", (wide, tall), _PAPER)
    draw = ImageDraw.Draw(image)
    # Text measured and drawn in one font: the default of a drawing is a smaller one.
    draw.font = font
    draw.text((_MARGIN, _MARGIN), title, _INK)
    unit = f"KL(teacher || student) in nats, mean over {table.images} synthetic images"
    draw.text((_MARGIN, _MARGIN + _ROW), unit, _FAINT)
    starts = (_MARGIN + name_width, _MARGIN + name_width + block + _GAP)
    top = _MARGIN + 2 * _ROW
    for left, letter in zip(starts, "WA", strict=True):
        for column, width in enumerate(PROBED_WIDTHS):
            _centred(draw, left + column * _CELL, top, f"{letter}{width}", _INK)
    for index, (name, weight, act) in enumerate(rows):
        top = _MARGIN + (_TITLE_ROWS + index) * _ROW
        draw.text((_MARGIN, top + 3), name, _INK)
        for left, entry in zip(starts, (weight, act), strict=True):
            damages = [] if entry is None else [entry.at(width) for width in PROBED_WIDTHS]
            for column, damage in enumerate(damages):
                _cell(draw, left + column * _CELL, top, damage.kl)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _rows(table: SensitivityTable) -> list[tuple[str, Sensitivity | None, Sensitivity | None]]:
    """Name, weight and input of every layer; then what no layer reads."""
    acts = table.of("activation")
    read = {layer: entry for entry in acts for layer in entry.layers}
    rows: list[tuple[str, Sensitivity | None, Sensitivity | None]] = [
        (_short(entry.name), entry, read.get(entry.name)) for entry in table.of("weight")
    ]
    return rows + [(_short(entry.name), None, entry) for entry in acts if not entry.layers]


def _short(name: str) -> str:
    return name.partition(".")[2] or name


def _cell(draw: "ImageDraw", left: int, top: int, kl: float) -> None:
    heat = math.log(min(max(kl, _LOW), _HIGH) / _LOW) / math.log(_HIGH / _LOW)
    draw.rectangle((left, top, left + _CELL - 2, top + _ROW - 2), _colour(heat))
    text = "0" if kl < _LOW else f"{kl:.1e}" if kl < 1e-3 else f"{kl:.2g}"
    _centred(draw, left, top + 3, text, _PAPER if heat > 0.7 else _INK)


def _colour(heat: float) -> tuple[int, int, int]:
    """Pale at 0, warm at one half, dark at 1."""
    start, end, part = (_PALE, _WARM, 2 * heat) if heat < 0.5 else (_WARM, _DARK, 2 * heat - 1)
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(start, end, strict=True))
    return red, green, blue


def _centred(
    draw: "ImageDraw", left: int, top: int, text: str, colour: tuple[int, int, int]
) -> None:
    shift = (_CELL - draw.textlength(text)) / 2
    draw.text((left + round(shift), top), text, colour)
