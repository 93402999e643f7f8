"""Painted images: decided by their numbers alone, within the bounds, as coarse as photos."""

import pytest
import torch
from torch import Tensor

from lrq_deploy.method.images import dead_leaves
from lrq_deploy.method.images.dead_leaves import DeadLeaves
from lrq_deploy.teacher import Preprocessing

pytestmark = pytest.mark.unit

PIXELS = Preprocessing((0.0,) * 3, (1.0,) * 3)
NO_CLASS = torch.zeros(0)


def painted(count: int, shape: tuple[int, int, int], preprocessing: Preprocessing) -> Tensor:
    source = DeadLeaves(shape, 10, preprocessing)
    random = torch.Generator().manual_seed(0)
    latent = torch.randn(count, *source.latent_shape, generator=random)
    images: Tensor = source(latent, source.embed(NO_CLASS))
    return images


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 24, 40), (3, 33, 21)])
def test_any_shape_is_filled_within_the_bounds(shape: tuple[int, int, int]) -> None:
    channels = shape[0]
    found = painted(64, shape, Preprocessing((0.5,) * channels, (0.25,) * channels))
    assert found.shape == (64, *shape)
    assert -2 <= float(found.min()) < -1.9
    assert 1.9 < float(found.max()) <= 2
    assert float(found.std((1, 2, 3)).min()) > 0.01


def test_each_image_follows_from_its_numbers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = painted(5, (3, 16, 16), PIXELS)
    monkeypatch.setattr(dead_leaves, "PIXELS", 16 * 16 * 2)
    assert torch.equal(painted(5, (3, 16, 16), PIXELS), whole)
    assert float(torch.cdist(whole.flatten(1), whole.flatten(1)).fill_diagonal_(9).min()) > 0.5


def test_images_differ_in_light_contrast_and_colour() -> None:
    found = painted(200, (3, 16, 16), PIXELS)
    light, contrast = found.mean((1, 2, 3)), found.mean(1).std((1, 2))
    colour = found.std(1).mean((1, 2))
    assert light.quantile(0.1) < 0.3
    assert light.quantile(0.9) > 0.7
    assert contrast.quantile(0.9) > 2 * contrast.quantile(0.1)
    assert colour.quantile(0.1) < 0.02
    assert colour.quantile(0.9) > 0.08


def test_power_falls_with_the_frequency_as_in_photos() -> None:
    """The 300 first photos of ``../shared`` measure -2.6 so, and a contrast of 0.21."""
    found = grey = painted(200, (3, 64, 64), PIXELS).mean(1)
    window = torch.hann_window(64, periodic=False)
    grey = (grey - grey.mean((1, 2), keepdim=True)) * window * window[:, None]
    power = torch.fft.fft2(grey).abs().square().mean(0)
    frequency = torch.fft.fftfreq(64)
    radius = (frequency.square() + frequency[:, None].square()).sqrt()
    middle = (radius > 3 / 64) & (radius < 20 / 64)
    x, y = radius[middle].log(), power[middle].log()
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    assert -3.2 < slope < -2.2
    assert float(found.std((1, 2)).mean()) == pytest.approx(0.21, abs=0.03)
