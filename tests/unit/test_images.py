"""Reading an image folder: labels, exact pixels, resizing, broken files."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.image_files import noise, write_png

import lrq_deploy.images as images_module
from lrq_deploy.errors import ImageError
from lrq_deploy.images import ImageReader, read_image_folder
from lrq_deploy.teacher import Preprocessing

pytestmark = pytest.mark.unit

IDENTITY_GREY = Preprocessing((0.0,), (1.0,))
IDENTITY_RGB = Preprocessing((0.0,) * 3, (1.0,) * 3)
RGB_8 = (3, 8, 8)


def test_pixels_that_fit_are_kept_exactly_and_normalised(tmp_path: Path) -> None:
    pixels = write_png(tmp_path / "0.png", 1)
    preprocessing = Preprocessing((0.5, 0.25, 0.0), (0.5, 0.25, 2.0), resize=12)
    (batch,) = read_image_folder(tmp_path, RGB_8, preprocessing, 10).batches(4)
    expected = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    mean = torch.tensor([0.5, 0.25, 0.0]).reshape(3, 1, 1)
    std = torch.tensor([0.5, 0.25, 2.0]).reshape(3, 1, 1)
    assert torch.equal(batch[0], (expected - mean) / std)


def test_broken_files_are_skipped_and_counted_with_aligned_labels(tmp_path: Path) -> None:
    write_png(tmp_path / "a" / "0.png", 0)
    kept = write_png(tmp_path / "b" / "2.png", 5)
    whole = (tmp_path / "a" / "0.png").read_bytes()
    (tmp_path / "a" / "1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b" / "0.jpg").write_bytes(b"not an image")
    (tmp_path / "b" / "1.webp").write_bytes(b"")
    found = read_image_folder(tmp_path, RGB_8, IDENTITY_RGB, num_classes=2)
    assert found.skipped == 3
    assert found.remarks() == ("3 of 5 image files could not be decoded and were skipped",)
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1]
    batch = torch.cat(list(found.batches(1)))
    assert torch.equal((batch[1] * 255).round().byte().permute(1, 2, 0), torch.from_numpy(kept))


def test_a_folder_of_only_broken_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"\x89PNG")
    with pytest.raises(ImageError, match="1 broken files"):
        read_image_folder(tmp_path, RGB_8, IDENTITY_RGB, num_classes=2)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
def test_every_common_format_is_read_and_resized(tmp_path: Path, suffix: str) -> None:
    flat = np.full((20, 30, 3), (200, 100, 50), dtype=np.uint8)
    Image.fromarray(flat).save(tmp_path / f"0.{suffix}")
    (batch,) = read_image_folder(tmp_path, (3, 16, 10), IDENTITY_RGB, 2).batches(8)
    assert batch.shape == (1, 3, 16, 10)
    colour = batch[0].mean(dim=(1, 2)) * 255
    assert torch.allclose(colour, torch.tensor([200.0, 100.0, 50.0]), atol=3)


def test_one_channel_networks_get_grey(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8, 3), 77, dtype=np.uint8)).save(tmp_path / "0.png")
    (batch,) = read_image_folder(tmp_path, (1, 8, 8), IDENTITY_GREY, 2).batches(8)
    assert torch.equal(batch, torch.full((1, 1, 8, 8), 77 / 255))


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 100 * 256, dtype=np.uint16)).save(tmp_path / "0.png")
    (batch,) = read_image_folder(tmp_path, (1, 8, 8), IDENTITY_GREY, 2).batches(8)
    assert torch.equal(batch, torch.full((1, 1, 8, 8), 100 / 255))


RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
# 12 bits: two values in three bytes.
_PAIRS = (RAMP.astype(np.uint16) << 4).reshape(-1, 2)
TWELVE = b"".join(bytes((a >> 4, (a & 15) << 4 | b >> 8, b & 255)) for a, b in _PAIRS.tolist())


def _pgm(most: int, scale: int) -> bytes:
    return b"P5 8 8 %d\n" % most + (RAMP.astype(np.uint16) * scale).astype(">u2").tobytes()


def _tiff(data: bytes, bits: int, sample: int = 1, order: str = "<") -> bytes:
    """Grey of 8 x 8; ``sample``: 1 without sign, 2 signed, 3 float."""
    values = {256: 8, 257: 8, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: len(data)}
    entries = [struct.pack(f"{order}HHII", n, 4, 1, v) for n, v in {**values, 339: sample}.items()]
    table = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(data))
    return head + data + table


SIXTEEN = RAMP.astype(np.uint16) * 257
READ: dict[str, bytes] = {
    "pgm-16": _pgm(65535, 257),
    "pgm-10": _pgm(1023, 4),
    "pgm-plain": b"P2 8 8 65535\n" + b" ".join(b"%d" % v for v in SIXTEEN.ravel()),
    "tiff-little": _tiff(SIXTEEN.astype("<u2").tobytes(), 16),
    "tiff-big": _tiff(SIXTEEN.astype(">u2").tobytes(), 16, order=">"),
    "tiff-12": _tiff(TWELVE, 12),
}


@pytest.mark.parametrize("content", READ.values(), ids=READ)
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_of_more_than_eight_bits_is_scaled(
    tmp_path: Path, content: bytes, channels: int
) -> None:
    (tmp_path / "0.tif").write_bytes(content)
    how = Preprocessing((0.0,) * channels, (1.0,) * channels)
    pixels = ImageReader((channels, 8, 8), how).pixels(tmp_path / "0.tif")
    assert np.array_equal(pixels.numpy(), np.stack([RAMP] * channels))


UNKNOWN: dict[str, bytes] = {
    "int32": _tiff(SIXTEEN.astype("<i4").tobytes(), 32, 2),
    "uint32": _tiff(SIXTEEN.astype("<u4").tobytes(), 32),
    "int16": _tiff(RAMP.astype("<i2").tobytes(), 16, 2),
    "float": _tiff((RAMP / 255).astype("<f4").tobytes(), 32, 3),
    "pfm": b"Pf\n8 8\n-1.0\n" + (RAMP / 255).astype("<f4").tobytes(),
}


@pytest.mark.parametrize("content", UNKNOWN.values(), ids=UNKNOWN)
def test_pixels_of_no_known_range_are_skipped_with_words(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "0.tif").write_bytes(content)
    write_png(tmp_path / "1.png", 0)
    assert read_image_folder(tmp_path, RGB_8, IDENTITY_RGB, 2).skipped == 1
    with pytest.raises(ValueError, match="do not tell what is white; save it with 8 or 16 bits"):
        ImageReader(RGB_8, IDENTITY_RGB).pixels(tmp_path / "0.tif")


def test_a_transparent_palette_is_read_without_a_warning(tmp_path: Path) -> None:
    image = Image.fromarray(noise(0)).quantize(4)
    image.save(tmp_path / "0.png", transparency=bytes([0, 255, 255, 255]))
    found = read_image_folder(tmp_path, RGB_8, IDENTITY_RGB, 2)
    assert found.skipped == 0


def test_shorter_side_then_centre_crop(tmp_path: Path) -> None:
    pixels = write_png(tmp_path / "0.png", 3, height=12, width=20)
    reader = ImageReader(RGB_8, Preprocessing((0.0,) * 3, (1.0,) * 3, resize=12))
    assert np.array_equal(
        reader.pixels(tmp_path / "0.png").permute(1, 2, 0).numpy(), pixels[2:10, 6:14]
    )


@given(st.integers(1, 40), st.integers(1, 40), st.integers(8, 24), st.one_of(st.none(), st.just(9)))
def test_any_image_size_gives_the_input_shape(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, side: int, resize: int | None
) -> None:
    path = tmp_path_factory.getbasetemp() / "any_size.png"
    write_png(path, 0, height, width)
    preprocessing = Preprocessing((0.0,) * 3, (1.0,) * 3, resize=resize)
    assert ImageReader((3, side, 8), preprocessing).pixels(path).shape == (3, side, 8)


def test_a_limit_is_spread_over_the_classes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for index in range(5):
            write_png(tmp_path / name / f"{index}.png", index)
    found = read_image_folder(tmp_path, RGB_8, IDENTITY_RGB, num_classes=2, limit=4)
    assert found.labels is not None
    assert found.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("memory", [2**30, 1])
def test_a_spread_keeps_images_and_labels_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    for name in ("a", "b"):
        for index in range(5):
            write_png(tmp_path / name / f"{index}.png", index)
    monkeypatch.setattr(images_module, "_MEMORY_LIMIT_BYTES", memory)
    whole = read_image_folder(tmp_path, RGB_8, IDENTITY_RGB, num_classes=2)
    some = whole.spread(4)
    assert whole.spread(11).paths == whole.paths
    assert some.labels is not None
    assert some.labels.tolist() == [0, 0, 1, 1]
    assert [path.name for path in some.paths] == ["0.png", "2.png", "0.png", "2.png"]
    (every,), (spread,) = whole.batches(10), some.batches(10)
    assert torch.equal(spread, every[[0, 2, 5, 7]])


def test_a_large_set_is_decoded_lazily_to_the_same_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(5):
        write_png(tmp_path / f"{index}.png", index)
    eager = torch.cat(list(read_image_folder(tmp_path, RGB_8, IDENTITY_RGB, 2).batches(2)))
    monkeypatch.setattr(images_module, "_MEMORY_LIMIT_BYTES", 1)
    lazy = read_image_folder(tmp_path, RGB_8, IDENTITY_RGB, 2)
    assert lazy.pixels is None
    batches = list(lazy.batches(2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert torch.equal(torch.cat(batches), eager)
    (tmp_path / "4.png").unlink()
    with pytest.raises(ImageError, match="must not change"):
        list(lazy.batches(2))


SHARED = Path(__file__).resolve().parents[2] / ".." / "shared"


@pytest.mark.skipif(not SHARED.exists(), reason="../shared is absent")
def test_real_photographs_are_read() -> None:
    found = read_image_folder(SHARED / "data" / "photos", (3, 96, 96), IDENTITY_RGB, 2, limit=20)
    assert len(found) == 20
    assert found.labels is None
    (batch,) = found.batches(20)
    assert 0.2 < float(batch.mean()) < 0.8


@pytest.mark.parametrize(("size", "resize"), [((1, 60_000), 256), ((2**20 + 1, 1), None)])
def test_a_strip_that_would_fill_the_memory_is_skipped(
    tmp_path: Path, size: tuple[int, int], resize: int | None
) -> None:
    Image.new("1", size).save(tmp_path / "strip.png")
    Image.new("RGB", (40, 1000)).save(tmp_path / "tall.png")
    how = Preprocessing((0.0,) * 3, (1.0,) * 3, resize=resize)
    found = read_image_folder(tmp_path, (3, 224, 224), how, None)
    assert [path.name for path in found.paths] == ["tall.png"]
    assert found.skipped == 1


def test_postscript_disguised_as_an_image_is_never_run(tmp_path: Path) -> None:
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    (tmp_path / "0.jpg").write_bytes(script)
    write_png(tmp_path / "1.png", 0)
    assert read_image_folder(tmp_path, RGB_8, IDENTITY_RGB, 2).skipped == 1
