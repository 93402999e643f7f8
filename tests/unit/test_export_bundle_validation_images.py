"""Made images: from the grid of a bundle, the same every time, in the range of the input."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.frozen_graphs import FrozenGraphBuilder, residual_student
from torch import Tensor

from lrq_deploy.errors import BundleError
from lrq_deploy.export.bundle.folder import Bundle, load_bundle, write_bundle
from lrq_deploy.export.bundle.manifest import FileRecord
from lrq_deploy.export.bundle.validation_images import synthetic_batches
from lrq_deploy.graph.specification import LayerSpec
from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.teacher import Preprocessing

pytestmark = pytest.mark.unit


def camera_images(count: int, channels: int = 3, height: int = 16, width: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 250, (count, channels, height, width), generator=generator)


def bundle_of(tmp_path: Path, model: QuantizedModel, pixels: Tensor) -> Bundle:
    normalised = (pixels / 255 - 0.5) / 0.5
    return write_bundle(tmp_path / "out", model, {"model.onnx": b""}, normalised, 0, {}, {})


def first_pixels(bundle: Bundle, model: QuantizedModel, count: int) -> Tensor:
    """The first made images, which are the grid's own, as 0..255."""
    made = next(synthetic_batches(bundle, model, count))
    return ((made * 0.5 + 0.5) * 255).round().long()


@pytest.mark.parametrize("count", [1, 3, 20, 64, 90])
def test_the_grid_gives_its_images_back(count: int, tmp_path: Path) -> None:
    pixels = camera_images(count)
    model = residual_student()
    bundle = bundle_of(tmp_path, model, pixels)
    assert torch.equal(first_pixels(bundle, model, min(count, 64)), pixels[:64])


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_channels_and_images_that_are_not_square(channels: int, tmp_path: Path) -> None:
    b = FrozenGraphBuilder(torch.randn(2, channels, 70, 9))
    x = b.call(torch.ops.aten.mean.dim, b.quantize(b.input, 8), [2, 3])
    model = b.finish(b.layer(b.quantize(x, 8), 3, spec=LayerSpec("linear")))
    pixels = camera_images(5, channels, 70, 9)
    bundle = bundle_of(tmp_path, model, pixels)
    assert torch.equal(first_pixels(bundle, model, 5), pixels)


def test_batches_are_the_grid_then_mixtures(tmp_path: Path) -> None:
    model = residual_student()
    pixels = camera_images(20)
    bundle = bundle_of(tmp_path, model, pixels)
    batches = list(synthetic_batches(bundle, model, 50, 16))
    assert [len(batch) for batch in batches] == [16, 16, 16, 2]
    made = torch.cat(batches)
    torch.testing.assert_close(made[:20], (pixels / 255 - 0.5) / 0.5)
    steps = (made * 0.5 + 0.5) * 255
    assert float((steps - steps.round()).abs().max()) < 1e-3
    assert float(made.min()) >= -1
    assert float(made.max()) <= 1
    assert len(torch.unique(made, dim=0)) == 50
    again = torch.cat(list(synthetic_batches(bundle, model, 50, 16)))
    assert torch.equal(made, again)


def unknown_normalisation() -> QuantizedModel:
    model = residual_student()
    unknown = Preprocessing(model.preprocessing.mean, model.preprocessing.std, known=False)
    return replace(model, preprocessing=unknown)


@pytest.mark.parametrize("shift", [0.0, 40.0])
def test_an_unknown_normalisation_spans_the_images_of_the_run(shift: float, tmp_path: Path) -> None:
    model = unknown_normalisation()
    images = torch.randn(6, *model.input_shape) * torch.tensor([1.0, 20.0, 0.1]).view(3, 1, 1)
    images = images + shift
    bundle = write_bundle(tmp_path / "out", model, {"model.onnx": b""}, images, 0, {}, {})
    made = torch.cat(list(synthetic_batches(bundle, model, 40)))
    low, high = images.amin((0, 2, 3)), images.amax((0, 2, 3))
    steps = ((high - low) / 255).view(3, 1, 1)
    assert float(((made[:6] - images).abs() / steps).max()) < 0.51
    torch.testing.assert_close(made.amin((0, 2, 3)), low)
    torch.testing.assert_close(made.amax((0, 2, 3)), high)


def test_a_grid_without_a_note_spans_the_first_quantizer(tmp_path: Path) -> None:
    model = unknown_normalisation()
    bundle = bundle_of(tmp_path, model, camera_images(6))
    path = bundle.file("synthetic.png")
    Image.open(path).copy().save(path)
    made = torch.cat(list(synthetic_batches(bundle, model, 40)))
    first = next(iter(model.quantizers().values())).qparams
    low, high = (float(first.scale) * q for q in (first.qmin, first.qmax))
    assert low <= float(made.min()) < 0.9 * low
    assert 0.9 * high < float(made.max()) <= high + 1e-5


def test_another_picture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = residual_student()
    bundle = bundle_of(tmp_path, model, camera_images(4))
    path = bundle.file("synthetic.png")
    Image.new("RGB", (50, 40)).save(path)
    with pytest.raises(BundleError, match="50x40"):
        next(synthetic_batches(bundle, model, 4))
    with monkeypatch.context() as patched:
        patched.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        with pytest.raises(BundleError, match="decompression bomb"):
            next(synthetic_batches(bundle, model, 4))
    path.write_bytes(b"no picture")
    with pytest.raises(BundleError, match="--images"):
        next(synthetic_batches(bundle, model, 4))
    path.unlink()
    files = {n: FileRecord("", 0) for n in bundle.manifest.files if n != "synthetic.png"}
    without = replace(bundle, manifest=replace(bundle.manifest, files=files))
    with pytest.raises(BundleError, match=r"synthetic\.png is missing"):
        next(synthetic_batches(without, model, 4))
    with pytest.raises(BundleError):
        load_bundle(bundle.path)
