"""A wrong mean or deviation of the pixels shows in the first BatchNorm."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lrq_deploy.graph.attributes import tensor_of
from lrq_deploy.graph.statistics import batch_norms
from lrq_deploy.graph.teach import make_teacher
from lrq_deploy.method.images.dead_leaves import DeadLeaves
from lrq_deploy.method.images.normalisation import (
    PixelCheck,
    _distance,
    check_pixels,
    fit_normalisation,
)
from lrq_deploy.teacher import Preprocessing, Teacher

pytestmark = pytest.mark.unit

SIDE = 24
IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def flat(mean: float, std: float, channels: int = 3) -> Preprocessing:
    return Preprocessing((mean,) * channels, (std,) * channels)


class Stem(nn.Module):
    """A convolution, what ``between`` is, a BatchNorm, and a classifier behind it."""

    def __init__(self, channels: int, between: nn.Module, norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, padding=1, bias=False)
        self.between = between
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.norm(self.between(self.conv(x)))
        logits: Tensor = self.head(seen.relu().mean((2, 3)))
        return logits


def trained_with(
    how: Preprocessing, between: nn.Module | None = None, norm: bool = True, seed: int = 0
) -> Teacher:
    """A network whose BatchNorm has seen images of another painter's seed, normalised so."""
    torch.manual_seed(seed)
    channels = len(how.mean)
    network = Stem(channels, between or nn.Identity(), norm)
    painter = DeadLeaves((channels, SIDE, SIDE), 5, how)
    latent = torch.randn(96, *painter.latent_shape)
    network.train()
    with torch.no_grad():
        if isinstance(network.norm, nn.BatchNorm2d):
            network.norm.momentum = None
        network(painter(latent, latent))
    return make_teacher(network.eval(), (channels, SIDE, SIDE), how, "stem", "")


USUAL = {
    "0..1": flat(0, 1),
    "-1..1": flat(0.5, 0.5),
    "0..255": flat(0, 1 / 255),
    "ImageNet": IMAGENET,
    "ImageNet, 0..255": replace(IMAGENET, std=(1 / 255,) * 3),
    "digits": Preprocessing((0.1307,), (0.3081,)),
    "grey": flat(0.5, 0.5, 1),
    "four channels": flat(0, 1, 4),
}


@given(
    wider=st.lists(st.floats(-2, 2), min_size=3, max_size=3),
    moved=st.lists(st.floats(-3, 3), min_size=3, max_size=3),
)
def test_a_distance_is_of_logarithms_of_deviations_and_of_means_in_deviations(
    wider: list[float], moved: list[float]
) -> None:
    mean, var = torch.tensor([0.0, -1.0, 5.0]), torch.tensor([1.0, 0.04, 9.0])
    seen = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    own_var, own_mean = torch.var_mean(seen, (0, 2, 3), keepdim=True)
    a, b = (torch.tensor(x) for x in (wider, moved))
    scale, shift = a.exp() * var.sqrt(), mean + b * var.sqrt()
    seen = (seen - own_mean) / own_var.sqrt() * scale[:, None, None] + shift[:, None, None]
    expected = float((a.square() + b.square()).mean().sqrt())
    assert _distance(seen, mean, var) == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", USUAL)
def test_what_a_network_was_trained_with_is_the_nearest_of_the_usual(name: str) -> None:
    how = USUAL[name]
    fit = fit_normalisation(trained_with(how))
    assert fit is not None
    assert fit.distance == fit.usual_distance < 0.5
    assert fit.usual.mean == how.mean
    assert fit.usual.std == how.std


@pytest.mark.parametrize(
    "stated",
    [flat(0, 1), Preprocessing((123.7, 116.3, 103.5), (58.4, 57.1, 57.4)), flat(0, 1 / 255)],
    ids=["left out", "in 0..255", "not divided"],
)
def test_what_does_not_fit_is_named_with_what_would(stated: Preprocessing) -> None:
    teacher = replace(trained_with(IMAGENET), preprocessing=stated)
    remark = check_pixels(teacher).remark
    flags = "--mean=0.485,0.456,0.406 --std=0.229,0.224,0.225"
    assert remark.endswith(f" do not fit the first BatchNorm of the network, {flags} would")
    unknown = replace(teacher, preprocessing=replace(flat(0, 1), known=False))
    assert check_pixels(unknown).remark == (
        "without --mean and --std pixels are read as they are, in 0..1, and the network seems "
        f"trained otherwise: its first BatchNorm fits {flags}"
    )
    for doubted in (teacher, unknown):
        found = check_pixels(doubted)
        assert found.contradicted
        assert found.stated == (doubted is teacher)
        assert found.fitting is not None
        assert (found.fitting.mean, found.fitting.std) == (IMAGENET.mean, IMAGENET.std)


def test_pixels_in_0_to_1_that_nobody_stated_are_not_doubted_where_they_fit() -> None:
    teacher = trained_with(flat(0, 1))
    unknown = replace(teacher, preprocessing=replace(flat(0, 1), known=False))
    found = check_pixels(unknown)
    assert (found.stated, found.contradicted) == (False, False)
    assert found.remark.endswith("in 0..1: its first BatchNorm fits --mean=0,0,0 --std=1,1,1")
    assert check_pixels(teacher) == PixelCheck()


def test_a_batch_norm_that_was_never_trained_tells_nothing() -> None:
    torch.manual_seed(0)
    # The default initialisation brings images of ImageNet's normalisation near deviation 1.
    fresh = make_teacher(Stem(3, nn.Identity()).eval(), (3, SIDE, SIDE), IMAGENET, "stem", "")
    assert fit_normalisation(fresh) is None
    for how in (flat(0, 1 / 255), replace(flat(0, 1), known=False)):
        found = check_pixels(replace(fresh, preprocessing=how))
        assert (found.fitting, found.contradicted) == (None, False)


def test_where_no_usual_one_fits_either_none_is_named() -> None:
    odd = flat(0.5, 20.0)
    assert check_pixels(trained_with(odd)).remark == ""
    wrong = replace(trained_with(odd), preprocessing=flat(0.0, 1.0))
    assert check_pixels(wrong).remark.endswith("of the network: check them")
    assert (check_pixels(wrong).fitting, check_pixels(wrong).contradicted) == (None, False)
    unknown = replace(wrong, preprocessing=replace(flat(0, 1), known=False))
    assert check_pixels(unknown).remark.endswith("in 0..1: pass both")


@given(st.floats(0.7, 1.4), st.floats(-0.1, 0.1), st.integers(0, 3))
@settings(max_examples=6)
def test_a_normalisation_of_its_own_is_not_doubted(factor: float, offset: float, seed: int) -> None:
    own = Preprocessing(
        tuple(mean + offset for mean in IMAGENET.mean),
        tuple(std * factor for std in IMAGENET.std),
    )
    teacher = trained_with(own, seed=seed)
    assert check_pixels(teacher).remark == ""
    assert check_pixels(replace(teacher, preprocessing=IMAGENET)).remark == ""


class Inside(nn.Module):
    """Takes pixels in 0..1 and normalises them itself, in front of another network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(IMAGENET.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(IMAGENET.std)[:, None, None])

    mean: Tensor
    std: Tensor

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network((x - self.mean) / self.std)
        return logits


def test_a_network_that_normalises_inside_reads_pixels_as_they_are() -> None:
    teacher = trained_with(IMAGENET)
    inside = Inside(teacher.graph).eval()
    pixels = make_teacher(inside, (3, SIDE, SIDE), flat(0, 1), "inside", "")
    assert check_pixels(pixels).remark == ""
    twice = replace(pixels, preprocessing=IMAGENET)
    assert check_pixels(twice).remark.endswith("network, --mean=0,0,0 --std=1,1,1 would")


BETWEEN: dict[str, Callable[[], nn.Module]] = {
    "padding": lambda: nn.ZeroPad2d(2),
    "another layer": lambda: nn.Conv2d(8, 8, 1),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_what_is_no_curve_may_stand_before_the_batch_norm(name: str) -> None:
    fit = fit_normalisation(trained_with(IMAGENET, BETWEEN[name]()))
    assert fit is not None
    assert fit.usual.mean == IMAGENET.mean


def test_a_curve_or_no_batch_norm_tells_nothing() -> None:
    for teacher in (trained_with(IMAGENET, nn.Sigmoid()), trained_with(IMAGENET, norm=False)):
        assert fit_normalisation(teacher) is None
        assert check_pixels(teacher).remark == ""
        unknown = replace(teacher, preprocessing=replace(flat(0, 1), known=False))
        assert check_pixels(unknown).remark.endswith("pass both")


def test_a_batch_norm_that_saw_nothing_tells_nothing() -> None:
    teacher = trained_with(IMAGENET)
    (norm,) = batch_norms(teacher.graph)
    with torch.no_grad():
        tensor_of(teacher.graph, norm.args[4]).zero_()
    assert fit_normalisation(teacher) is None
    assert check_pixels(teacher).remark == ""


def test_dead_channels_count_nothing() -> None:
    teacher = trained_with(IMAGENET)
    (norm,) = batch_norms(teacher.graph)
    with torch.no_grad():
        tensor_of(teacher.graph, norm.args[4])[0] = 1e-12
    assert check_pixels(teacher).remark == ""
