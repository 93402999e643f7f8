"""A graph made from a bundle's ``model.onnx``, written beside it once it gives the same bits."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from lrq_deploy.durable import publish_file
from lrq_deploy.errors import ExportError, WriteError
from lrq_deploy.export.bundle.folder import Bundle
from lrq_deploy.export.bundle.output_file import check_output_file
from lrq_deploy.export.runtime.session import Session

__all__ = ["require_same_bits", "write_graph"]

_CHECKED_IMAGES = 4


def write_graph(out: Path, bundle: Bundle, force: bool, make: Callable[[Path], object]) -> int:
    """Let ``make`` write a file, and give it its name once it is whole; its size in bytes.

    Raises:
        OutputError: see ``check_output_file``.
        WriteError: the disk refuses.
    """
    check_output_file(out, bundle, force)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
            partial = Path(folder) / out.name
            make(partial)
            size = partial.stat().st_size
            publish_file(partial, out)
    except OSError as error:
        raise WriteError(
            "the graph must be written completely",
            f"{error.strerror or error} at {out}",
            "free space on the disk or choose another --out",
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
