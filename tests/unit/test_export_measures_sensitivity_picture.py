"""The picture of a sensitivity table."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lrq_deploy.export.measures.sensitivity_picture import sensitivity_png
from lrq_deploy.sensitivity import PROBED_WIDTHS, Damage, Sensitivity, SensitivityTable

pytestmark = pytest.mark.unit


def table(*kls: float, reader: str = "layers.a") -> SensitivityTable:
    """One layer per value, at which its weights stand at every width; one activation."""
    names = [f"layers.{letter}" for letter in "abcdef"[: len(kls)]]
    weights = [
        Sensitivity(
            name, "weight", 5, (name,), tuple(Damage(b, kl, 1.0, 0.0) for b in (2, 3, 4, 8))
        )
        for name, kl in zip(names, kls, strict=True)
    ]
    damages = tuple(Damage(b, 0.0, 1.0, 0.0) for b in PROBED_WIDTHS)
    act = Sensitivity("quantizers.x", "activation", 5, (reader,) if reader else (), damages)
    return SensitivityTable("net", 16, (*weights, act))


def pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"))


def test_the_same_table_gives_the_same_bytes() -> None:
    assert sensitivity_png(table(0.1, 0.2)) == sensitivity_png(table(0.1, 0.2))


def test_more_damage_is_darker() -> None:
    ink = [int((255 - pixels(sensitivity_png(table(kl))).astype(int)).sum()) for kl in (0, 0.01, 5)]
    assert ink[0] < ink[1] < ink[2]


def test_every_layer_and_every_unread_activation_has_a_row() -> None:
    heights = [
        pixels(sensitivity_png(t)).shape[0]
        for t in (table(0.1), table(0.1, 0.1), table(0.1, 0.1, reader=""))
    ]
    assert heights[1] - heights[0] == heights[2] - heights[1] > 0
