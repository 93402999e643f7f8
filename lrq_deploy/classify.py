"""Classify image files with the network beside this file; a copy of it lies in every bundle.

    pip install numpy pillow onnxruntime
    python classify.py IMAGE [IMAGE ...]
    python classify.py --model FILE IMAGE [IMAGE ...]

writes a line per image: its name, the class (counted from 0), its probability and, where the
model file states them, the name of the class. Of a folder all images are read, in the order of
their paths. Where each label is a yes or no of its own, all
labels with a yes are written instead. Images are read as they were for the figures in
manifest.json. model.onnx returns logits, also where the network that it was made from returned
probabilities; these are made here. Nothing else is needed, with Python 3.8 or newer and Pillow
9.1 or newer.

How new onnxruntime must be depends on model.onnx: from 1.18 to 1.28, mostly 1.23 where weights
have 4 bits or fewer. Python 3.8 and 3.9 get none after 1.19, Python 3.10 none after 1.23. For an
older one than the network needs, run lrq-deploy build BUNDLE --onnxruntime 1.18 where lrq-deploy
is installed, and pass what it writes as FILE: larger or slower, the same bits.
"""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["CHANNELS", "DECODING_ERRORS", "FORMATS", "main", "normalise", "read_pixels"]

CHANNELS = (1, 3)
"""Of the inputs that an image file can fill: grey or RGB."""

# Pillow's other readers are left out: the one for EPS hands the file to an external program.
Image.init()
_ACCEPTED = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
FORMATS = tuple(name for name in _ACCEPTED if name in Image.OPEN)
"""Those of Pillow's formats that are read."""

DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises on a file that is not, or only half, an image."""

_SCALED = ("PNG", "PPM")
"""Formats whose pixels of mode I are 0 to 65535: PGM, and PNG before Pillow 10.3."""

_BITS_PER_SAMPLE = 258

# A strip of a few pixels fills the memory when its short side grows to that of the network.
_LONGEST_SIDE = 2**20
_MOST_PIXELS = 2**27

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def read_pixels(
    path: Path, input_shape: tuple[int, int, int], resize: int | None, interpolation: str
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decode and resize one file to ``[C, H, W]`` uint8.

    An image that already has the input size keeps its exact pixels. Otherwise it is resized
    (with antialiasing), to ``(H, W)`` or to a shorter side and then cropped at the centre.

    Args:
        path: the file.
        input_shape: ``(C, H, W)``; one channel reads grey, three read RGB.
        resize: shorter side in pixels before the crop; None for ``(H, W)``.
        interpolation: ``bilinear`` or ``bicubic``.

    Raises:
        DECODING_ERRORS: the file is no complete image.
    """
    channels, height, width = input_shape
    with Image.open(path, formats=FORMATS) as opened:
        image = _convert(opened, "L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = _resized(image, height, width, resize, _RESAMPLING[interpolation])
    pixels = np.array(image, dtype=np.uint8).reshape(height, width, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def normalise(
    pixels: np.ndarray[Any, np.dtype[np.uint8]], mean: tuple[float, ...], std: tuple[float, ...]
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """``(pixel / 255 - mean) / std`` of ``[N, C, H, W]`` uint8, as float32."""
    centre, spread = (np.asarray(x, np.float32).reshape(1, -1, 1, 1) for x in (mean, std))
    return (pixels.astype(np.float32) / np.float32(255) - centre) / spread


def _convert(image: Image.Image, mode: str) -> Image.Image:
    """Decode fully to ``mode``, always as a new image."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in _SCALED):
        # Pillow clips 16-bit grey at 255 instead of scaling it.
        grey = (np.asarray(image).astype(np.uint32) >> (_bits(image) - 8)).astype(np.uint8)
        return Image.fromarray(grey).convert(mode)
    if image.mode in ("I", "F"):
        raise ValueError(
            f"{image.format} with signed, 32-bit or float pixels, which do not tell what is white; "
            "save it with 8 or 16 bits"
        )
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)


def _bits(image: Image.Image) -> int:
    """Of grey as Pillow gives it: it scales all to 16 bits but TIFF of 12."""
    told = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))
    return int(told[0])


def _resized(
    image: Image.Image, height: int, width: int, side: int | None, resampling: Image.Resampling
) -> Image.Image:
    size = (width, height)
    if side is not None:
        # A crop larger than the resized image would be padded black.
        side = max(side, height, width)
        shorter = min(image.size)
        size = (image.width * side // shorter, image.height * side // shorter)
    if max(image.size) > _LONGEST_SIDE or size[0] * size[1] > _MOST_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels, too long a strip to be resized")
    if side is None:
        return image.resize(size, resampling)
    if image.size != size:
        image = image.resize(size, resampling)
    left = round((image.width - width) / 2)
    top = round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _answer(logits: np.ndarray[Any, np.dtype[np.float32]], task: str, names: Sequence[str]) -> str:
    """A class, its probability and its name if known, or all labels with a yes."""
    values = logits.astype(np.float64)
    if task == "multilabel":
        shares = 1 / (1 + np.exp(-values))
        yes = [int(label) for label in np.flatnonzero(values > 0)]
        if names:
            return "\t".join(f"{label}:{shares[label]:.4f}:{names[label]}" for label in yes)
        return " ".join(f"{label}:{shares[label]:.4f}" for label in yes)
    shares = np.exp(values - values.max())
    best = int(values.argmax())
    named = f"\t{names[best]}" if names else ""
    return f"{best}\t{shares[best] / shares.sum():.4f}{named}"


def _say(sentence: str) -> None:
    sys.stderr.write(sentence + "\n")


def _session(model: Path) -> Any:
    """The loaded graph, or None, with a sentence on stderr, where onnxruntime does not load it."""
    if not model.is_file():
        _say(f"there is no file {model}")
        return None
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    # They have no base of their own.
    kinds = [x for x in vars(state).values() if isinstance(x, type) and issubclass(x, Exception)]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except tuple(kinds) as error:
        version = onnxruntime.__version__
        reason = str(error).strip().partition("\n")[0]
        wanted = ".".join(version.split(".")[:2])
        _say(
            f"onnxruntime {version} does not load {model} ({reason}); if it is too old for that, "
            f"run lrq-deploy build BUNDLE --onnxruntime {wanted} where lrq-deploy is installed, "
            "and pass what it writes as --model FILE"
        )
    return None


def _fits(session: Any, model: Path, shape: Sequence[int], classes: int) -> bool:
    """Whether the graph is one of this bundle; a sentence on stderr says what it is instead."""
    ends = [[(x.name, list(x.shape[1:])) for x in session.get_inputs()]]
    ends += [[(x.name, list(x.shape[1:])) for x in session.get_outputs()]]
    wanted = [[("input", list(shape))], [("logits", [classes])]]
    if ends == wanted:
        return True
    found, expected = (
        " -> ".join(", ".join(f"{name} {sizes}" for name, sizes in side) for side in both)
        for both in (ends, wanted)
    )
    _say(
        f"{model} is not a graph of this bundle: it has {found} instead of {expected}; pass "
        "model.onnx, or what lrq-deploy build wrote from this bundle"
    )
    return False


def _files(arguments: Sequence[str]) -> Iterator[str]:
    """The arguments, and the images of each that is a folder in place of it."""
    suffixes = Image.registered_extensions()
    for name in arguments:
        if not os.path.isdir(name):
            yield name
            continue
        below = [Path(at, file) for at, _, files in os.walk(name) for file in files]
        shown = [path for path in below if not path.name.startswith(".")]
        images = [str(x) for x in shown if suffixes.get(x.suffix.lower()) in FORMATS]
        # A folder without images fails as a file does that is none.
        yield from sorted(images) or [name]


def main(arguments: list[str], bundle: Path) -> int:
    """Write an answer per image to stdout; the exit code: 1 where an image could not be read.

    Args:
        arguments: paths of images or folders, behind ``--model`` and a graph in place of
            ``model.onnx`` if there is one.
        bundle: folder with ``manifest.json`` and ``model.onnx``.
    """
    model = bundle / "model.onnx"
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if arguments[:1] == ["--model"] and len(arguments) > 2:
        model, arguments = Path(arguments[1]), arguments[2:]
    if not arguments or arguments[0].startswith("-"):
        sys.stdout.write(__doc__ or "")
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    try:
        manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        reading, shape = manifest["preprocessing"], tuple(manifest["input_shape"])
        task = manifest["options"].get("task", "multiclass")
        names, classes = manifest.get("class_names", ()), manifest["num_classes"]
        if len(names) not in (0, classes) or reading["interpolation"] not in _RESAMPLING:
            raise ValueError("names of other classes, or another interpolation")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        _say(f"{bundle / 'manifest.json'} is damaged ({error!r}); get the bundle again")
        return 2
    session = _session(model)
    if session is None or not _fits(session, model, shape, classes):
        return 2
    if not reading.get("known", True):
        _say(
            "warning: nobody said how the images of this network were normalised, so pixels are "
            "read as they are, in 0..1; if that is wrong, so are the answers: quantize again with "
            "--mean and --std"
        )
    code = 0
    for name in _files(arguments):
        try:
            pixels = read_pixels(Path(name), shape, reading["resize"], reading["interpolation"])
        except DECODING_ERRORS as error:
            _say(f"{name}: {'no image in this folder' if os.path.isdir(name) else error}")
            code = 1
            continue
        image = normalise(pixels[None], reading["mean"], reading["std"])
        (logits,) = session.run(None, {"input": image})
        sys.stdout.write(f"{name}\t{_answer(logits[0], task, names)}\n")
    return code


if __name__ == "__main__":
    try:
        exit_code = main(sys.argv[1:], Path(__file__).resolve().parent)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the answers, such as head, has enough; Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        exit_code = 0
    sys.exit(exit_code)
