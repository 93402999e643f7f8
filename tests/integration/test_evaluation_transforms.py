"""Images of ``--images`` against the transforms of torchvision and timm, on real photographs."""

from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor

from lrq_deploy.architecture.named import Architecture, build_architecture
from lrq_deploy.images import ImageReader
from lrq_deploy.teacher import Preprocessing

pytestmark = pytest.mark.integration

PHOTOS = Path(__file__).resolve().parents[3] / "shared" / "data" / "photos"
# Pixels are equal; the libraries divide and subtract in another order of float32 operations.
ROUNDING = 1e-6


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two square photographs, and wide and tall cuts of them."""
    if not PHOTOS.is_dir():
        pytest.skip(f"{PHOTOS} is absent")
    folder = tmp_path_factory.mktemp("photos")
    paths = sorted(PHOTOS.glob("*.jpg"))[:2]
    with Image.open(paths[0]) as photo:
        photo.crop((0, 20, 160, 121)).save(folder / "wide.png")
    with Image.open(paths[1]) as photo:
        photo.crop((30, 0, 129, 160)).save(folder / "tall.png")
    return [*paths, folder / "wide.png", folder / "tall.png"]


def ours(architecture: Architecture, photo: Path) -> Tensor:
    """``[C, H, W]`` as the network reads it."""
    assert architecture.input_shape is not None
    assert architecture.mean is not None
    assert architecture.std is not None
    preprocessing = Preprocessing(
        architecture.mean,
        architecture.std,
        resize=architecture.resize,
        interpolation=architecture.interpolation,
    )
    reader = ImageReader(architecture.input_shape, preprocessing)
    return reader.normalise(reader.pixels(photo)[None])[0]


@pytest.mark.parametrize(
    ("name", "interpolation"), [("mnasnet0_5", "bilinear"), ("efficientnet_b0", "bicubic")]
)
def test_torchvision(photos: list[Path], name: str, interpolation: str) -> None:
    architecture = build_architecture(f"torchvision:{name}")
    assert architecture.interpolation == interpolation
    transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    for photo in photos:
        with Image.open(photo) as image:
            expected = transform(image.convert("RGB"))
        torch.testing.assert_close(ours(architecture, photo), expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(
    ("name", "interpolation"), [("hardcorenas_a", "bilinear"), ("lcnet_050", "bicubic")]
)
def test_timm(photos: list[Path], name: str, interpolation: str) -> None:
    data = pytest.importorskip("timm.data", reason="timm is an optional extra")
    architecture = build_architecture(f"timm:{name}")
    assert architecture.interpolation == interpolation
    settings = data.resolve_model_data_config(architecture.module)
    transform = data.create_transform(**settings, is_training=False)
    for photo in photos:
        with Image.open(photo) as image:
            expected = transform(image.convert("RGB"))
        torch.testing.assert_close(ours(architecture, photo), expected, rtol=0, atol=ROUNDING)
