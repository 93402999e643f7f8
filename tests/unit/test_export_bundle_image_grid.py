"""The picture of the synthetic images."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from lrq_deploy.export.bundle.image_grid import grid_png
from lrq_deploy.teacher import Preprocessing

pytestmark = pytest.mark.unit


def test_normalisation_is_undone() -> None:
    pixels = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    preprocessing = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    sheet = Image.open(io.BytesIO(grid_png((pixels / 255 - mean) / std, preprocessing)))
    assert sheet.size == (2 + 2 * 66, 2 + 66)
    found = np.asarray(sheet)[2:66, 2:66]
    assert np.array_equal(found, pixels[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (10, 4, 3), (100, 8, 8)])
def test_grey_images_of_any_count(count: int, columns: int, rows: int) -> None:
    images = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    sheet = Image.open(io.BytesIO(grid_png(images, Preprocessing((0.0,), (1.0,), known=False))))
    assert sheet.mode == "L"
    assert sheet.size == (2 + columns * 66, 2 + rows * 66)
