"""A graph made from a bundle's ``model.onnx``, written beside it once it gives the same bits."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from lrq_deploy.errors import ExportError, OutputError
from lrq_deploy.export.session import Session

__all__ = ["require_same_bits", "write_graph"]

_CHECKED_IMAGES = 4


def write_graph(out: Path, force: bool, make: Callable[[Path], None]) -> int:
    """Let ``make`` write a file, and give it its name once it is whole; its size in bytes.

    Raises:
        OutputError: ``out`` exists and ``force`` is not set, or cannot be written.
    """
    if out.exists() and not force:
        raise OutputError(
            "--out must not exist yet", f"{out}", "choose another --out, or pass --force"
        )
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
            partial = Path(folder) / out.name
            make(partial)
            size = partial.stat().st_size
            os.replace(partial, out)
    except OSError as error:
        raise OutputError(
            "--out must lie in a folder that can be written",
            f"{error.strerror or error} at {out}",
            "choose another --out or free space on the disk",
        ) from error
    return size


def require_same_bits(reference: Session, found: Session, input_shape: tuple[int, ...]) -> None:
    """Compare the logits of two graphs on random images.

    Raises:
        ExportError: they differ.
    """
    random = torch.Generator().manual_seed(0)
    images = torch.randn(_CHECKED_IMAGES, *input_shape, generator=random)
    difference = (reference.logits(images) - found.logits(images)).abs().max()
    if float(difference) != 0:
        raise ExportError(
            "a graph made from a bundle must give the bits of its model.onnx",
            f"logits that differ by up to {float(difference):g}",
            "use model.onnx of the bundle",
        )
