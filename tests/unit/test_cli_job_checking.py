"""How many images the checks of a run take."""

import pytest

from lrq_deploy.cli.job.checking import BATCH, BATCH_PIXELS, PARITY_IMAGES, PARITY_PIXELS, images_of

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("side", "parity", "batch"), [(8, 1000, 64), (32, 1000, 64), (96, 227, 28), (224, 41, 5)]
)
def test_large_images_are_fewer(side: int, parity: int, batch: int) -> None:
    assert images_of((3, side, side), PARITY_PIXELS, PARITY_IMAGES) == parity
    assert images_of((3, side, side), BATCH_PIXELS, BATCH) == batch
    assert images_of((3, 4096, 4096), PARITY_PIXELS, PARITY_IMAGES) == PARITY_IMAGES[0]
