"""Painted images: decided by their numbers alone, within the bounds, as coarse as photos."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lrq_deploy.method.images import dead_leaves
from lrq_deploy.method.images.dead_leaves import RADII, DeadLeaves, _tint
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


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9, 0.98])
@pytest.mark.parametrize(("thin", "form", "unit"), [(1.0, 0.2, math.pi), (0.0, 0.8, 4 * 0.35)])
def test_sizes_have_a_density_of_their_inverse_cube(
    part: float, thin: float, form: float, unit: float
) -> None:
    """Of round leaves and of thin rectangles, by the area that they cover."""
    source = DeadLeaves((1, 256, 256), 10, Preprocessing((0.0,), (1.0,)))
    numbers = torch.tensor([part, 0.5, 0.5, 0.2, thin, form, 0.5, 0.5, 0.5, 0.0])
    cover, _ = source._leaf(numbers[None, :, None, None], torch.zeros(1, 1, 256, 256))
    radius = (float(cover.mean()) / unit) ** 0.5
    smallest, largest = RADII
    # The integral of r^-3 from the smallest on, as a share of the whole.
    below = (smallest**-2 - radius**-2) / (smallest**-2 - largest**-2)
    assert below == pytest.approx(part, abs=0.02)


def test_textures_are_coarse_and_fine_at_once() -> None:
    """Octaves that fell with no frequency would leave little of the coarse ones."""
    source = DeadLeaves((1, 64, 64), 10, Preprocessing((0.0,), (1.0,)))
    latent = torch.randn(20, *source.latent_shape, generator=torch.Generator().manual_seed(0))
    for texture in source._textures(list(latent.split(source._parts, 1)[4:])):
        assert 0.7 < float(F.avg_pool2d(texture, 8).var((2, 3)).mean()) < 0.97


def test_textures_have_deviation_1_and_tints_no_light() -> None:
    source = DeadLeaves((3, 24, 40), 10, PIXELS)
    latent = torch.randn(5, *source.latent_shape, generator=torch.Generator().manual_seed(0))
    for texture in source._textures(list(latent.split(source._parts, 1)[4:])):
        assert texture.shape == (5, 1, 24, 40)
        torch.testing.assert_close(texture.std((1, 2, 3)), torch.ones(5))
    tints = _tint(latent[:, :3, None, None], torch.full((5, 1, 1, 1), 0.2))
    torch.testing.assert_close(tints.mean(1), torch.zeros(5, 1, 1), rtol=0, atol=1e-6)
    assert float(tints.std()) > 0.1


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
