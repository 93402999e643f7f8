"""Images that start as noise."""

import pytest
import torch

from lrq_deploy.method.images.noise import NoiseImages
from lrq_deploy.teacher import Preprocessing

pytestmark = pytest.mark.unit


def test_noise_is_normal_within_the_bounds_and_blind_to_classes() -> None:
    source = NoiseImages((2, 8, 8), 10, Preprocessing((0.5, 0.5), (0.25, 1.0)))
    latent = torch.randn(500, *source.latent_shape, generator=torch.Generator().manual_seed(0))
    images = source(latent, source.embed(torch.zeros(500, dtype=torch.int64)))
    assert torch.equal(images, source(latent, source.embed(torch.ones(500, dtype=torch.int64))))
    low, high = source.bounds()
    assert low.flatten().tolist() == [-2.0, -0.5]
    assert high.flatten().tolist() == [2.0, 0.5]
    assert bool((images >= low).all())
    assert bool((images <= high).all())
    # The wide channel hardly clips: its values are the noise itself.
    assert images[:, 0].std() == pytest.approx(0.96, abs=0.03)
    assert not list(source.parameters())
