"""The generator: any shape, any class count, inputs within the bounds of an image."""

import itertools

import pytest
import torch

from lrq_deploy.method.images.attention import AttentionBlock
from lrq_deploy.method.images.generator import LATENT_SIZE, LongRangeGenerator, map_sizes
from lrq_deploy.teacher import Preprocessing

pytestmark = pytest.mark.unit


def preprocessing(channels: int, known: bool = True) -> Preprocessing:
    return Preprocessing((0.4,) * channels, (0.25,) * channels, known)


@pytest.mark.parametrize(
    ("shape", "classes"),
    [
        ((1, 8, 8), 10),
        ((3, 32, 32), 2),
        ((3, 9, 31), 5),
        ((1, 28, 17), 1000),
        ((3, 96, 64), 3),
        ((3, 33, 129), 7),
    ],
)
@pytest.mark.parametrize("long_range", [True, False])
def test_images_have_the_shape_and_the_bounds(
    shape: tuple[int, int, int], classes: int, long_range: bool
) -> None:
    torch.manual_seed(0)
    generator = LongRangeGenerator(shape, classes, preprocessing(shape[0]), long_range)
    labels = torch.tensor([0, classes - 1, 1])
    with torch.no_grad():
        made = generator(torch.randn(3, LATENT_SIZE), generator.embed(labels))
    assert made.shape == (3, *shape)
    assert -1.6 - 1e-5 <= float(made.min()) < float(made.max()) <= 2.4 + 1e-5
    blocks = [m for m in generator.modules() if isinstance(m, AttentionBlock)]
    assert bool(blocks) == long_range


def test_the_largest_image() -> None:
    generator = LongRangeGenerator((3, 256, 256), 1000, preprocessing(3)).eval()
    with torch.no_grad():
        made = generator(torch.randn(1, LATENT_SIZE), generator.embed(torch.tensor([999])))
    assert made.shape == (1, 3, 256, 256)


def test_attention_is_there_for_common_sizes() -> None:
    for side in (8, 28, 32, 96, 224):
        generator = LongRangeGenerator((3, side, side), 4, preprocessing(3))
        assert any(isinstance(m, AttentionBlock) for m in generator.modules())


def test_classes_and_latents_change_the_image() -> None:
    torch.manual_seed(0)
    generator = LongRangeGenerator((3, 16, 16), 4, preprocessing(3))
    latent = torch.randn(1, LATENT_SIZE).repeat(4, 1)
    with torch.no_grad():
        by_class = generator(latent, generator.embed(torch.arange(4)))
        by_latent = generator(torch.randn(4, LATENT_SIZE), generator.embed(torch.zeros(4).long()))
    assert float(by_class.var(0).mean()) > 1e-4
    assert float(by_latent.var(0).mean()) > 1e-4


def test_a_class_weighs_as_much_as_a_latent_whatever_the_size_of_its_vector() -> None:
    generator = LongRangeGenerator((3, 8, 8), 4, preprocessing(3))
    codes: list[torch.Tensor] = []
    generator.project.register_forward_pre_hook(lambda _, args: codes.append(args[0]))
    latent, wanted = torch.randn(4, LATENT_SIZE), generator.embed(torch.arange(4))
    for size in (1.0, 7.0):
        generator(latent, size * wanted)
        assert torch.equal(codes[-1][:, :LATENT_SIZE], latent)
        power = codes[-1][:, LATENT_SIZE:].detach().square().mean(1)
        torch.testing.assert_close(power, torch.ones(4))


def test_the_layout_is_the_one_of_the_docs() -> None:
    """What is painted is normalised in front of the tanh, and no activation is 0 for a half."""
    torch.manual_seed(0)
    generator = LongRangeGenerator((3, 16, 16), 4, preprocessing(3), long_range=False)
    seen: list[torch.Tensor] = []
    for stage in generator.stages:
        stage.register_forward_hook(lambda _, __, result: seen.append(result.detach()))
    with torch.no_grad():
        made = generator(torch.randn(64, LATENT_SIZE), generator.embed(torch.arange(64) % 4))
    painted = torch.atanh((made - generator.centre) / generator.reach)
    torch.testing.assert_close(painted.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-2)
    torch.testing.assert_close(painted.std((0, 2, 3)), torch.ones(3), rtol=1e-2, atol=0)
    assert [tuple(x.shape[2:]) for x in seen] == generator.sizes
    assert all(0.3 < float((x < 0).float().mean()) < 0.7 for x in seen)


def test_a_set_of_labels_is_the_sum_of_its_classes() -> None:
    generator = LongRangeGenerator((3, 8, 8), 4, preprocessing(3), task="multilabel")
    first, third = generator.embed(torch.tensor([0, 2]))
    both = generator.embed(torch.tensor([[1.0, 0.0, 1.0, 0.0]]))
    torch.testing.assert_close(both[0], first + third)


@pytest.mark.parametrize("reach", [1.5, -1.5])
def test_unknown_bounds_are_learned(reach: float) -> None:
    known = LongRangeGenerator((1, 8, 8), 2, preprocessing(1))
    unknown = LongRangeGenerator((1, 8, 8), 2, preprocessing(1, known=False))
    for generator, learned in ((known, False), (unknown, True)):
        assert generator.reach.requires_grad == generator.centre.requires_grad == learned
    with torch.no_grad():
        unknown.centre.fill_(0.5)
        unknown.reach.fill_(reach)
        made = unknown(torch.randn(64, LATENT_SIZE), unknown.embed(torch.zeros(64).long()))
    low, high = unknown.bounds()
    assert (low.item(), high.item()) == (-1.0, 2.0)
    assert -1 <= float(made.min()) < 0 < 1 < float(made.max()) <= 2


@pytest.mark.parametrize("size", [(8, 8), (9, 31), (28, 28), (224, 224), (17, 256), (255, 33)])
def test_maps_double_up_to_the_image(size: tuple[int, int]) -> None:
    sizes = map_sizes(*size)
    assert sizes[-1] == size
    assert min(sizes[0]) <= 8
    assert all(min(later) > 8 for later in sizes[1:])
    for small, large in itertools.pairwise(sizes):
        assert all(s == -(-b // 2) for s, b in zip(small, large, strict=True))


@pytest.mark.parametrize(("side", "doubled"), [(16, True), (15, False)])
def test_a_map_of_twice_the_size_is_not_made_on_a_cpu(side: int, doubled: bool) -> None:
    generator = LongRangeGenerator((3, side, side), 4, preprocessing(3))
    latent = torch.randn(4, LATENT_SIZE)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        generator(latent, generator.embed(torch.arange(4))).square().sum().backward()
    called = {event.key for event in profile.key_averages()}
    assert ("aten::upsample_nearest2d" in called) != doubled
    # Weights of depthwise convolutions on small maps get their gradient from a product.
    assert "aten::bmm" in called
