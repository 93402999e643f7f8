"""What a processor does is found whatever it is made of."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from lrq_deploy.architecture.image_processor import observe_processor
from lrq_deploy.errors import CheckpointError

pytestmark = pytest.mark.unit

Process = Callable[[Tensor], Tensor]


def normalising(mean: list[float], std: list[float]) -> Process:
    return lambda image: F.normalize(image / 255, mean, std)


def resizing(size: list[int], crop: list[int] | None) -> Process:
    def process(image: Tensor) -> Tensor:
        image = F.resize(image, size, antialias=True) / 255
        return image if crop is None else F.center_crop(image, crop)

    return process


@given(
    mean=st.lists(st.floats(-1, 1), min_size=3, max_size=3),
    std=st.lists(st.floats(0.05, 2), min_size=3, max_size=3),
)
def test_mean_and_std_are_found(mean: list[float], std: list[float]) -> None:
    found = observe_processor(normalising(mean, std))
    assert found.mean == pytest.approx(mean, abs=2e-5)
    assert found.std == pytest.approx(std, rel=2e-5)


@given(side=st.integers(16, 256), border=st.integers(1, 64))
def test_the_cut_is_found(side: int, border: int) -> None:
    found = observe_processor(resizing([side + border], [side, side]))
    assert (found.size, found.resize) == ((side, side), side + border)


@pytest.mark.parametrize(
    ("size", "crop", "expected", "resize"),
    [
        ([64, 64], None, (64, 64), None),
        ([48, 80], None, (48, 80), None),
        ([80, 80], [64, 64], (64, 64), 80),
        ([64], None, (64, 64), 64),
        ([64], [64, 64], (64, 64), 64),
        ([64], [48, 64], (48, 64), 64),
    ],
    ids=["squashed", "not square", "squashed and cut", "kept", "cut", "cut to a shape"],
)
def test_each_way_of_resizing(
    size: list[int], crop: list[int] | None, expected: tuple[int, int], resize: int | None
) -> None:
    found = observe_processor(resizing(size, crop))
    assert (found.size, found.resize) == (expected, resize)


@pytest.mark.parametrize(
    "process",
    [
        lambda image: image.flip(0) / 255,
        lambda image: image.mean(0, keepdim=True).expand_as(image) / 255,
        lambda image: -image / 255,
        torch.zeros_like,
    ],
    ids=["bgr", "grey", "negative", "nothing"],
)
def test_what_no_mean_and_std_say_is_refused(process: Process) -> None:
    with pytest.raises(CheckpointError, match="pass --mean, --std and --input-shape"):
        observe_processor(process)
