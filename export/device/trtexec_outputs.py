"""What ``trtexec`` answered on a device, from the ``outputs.json`` that it wrote."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrq_deploy.errors import BundleError
from lrq_deploy.export.device.check import DeviceCheck
from lrq_deploy.export.parity.bounds import FLOAT_SUMS, Bound
from lrq_deploy.export.parity.compare import Parity, compare
from lrq_deploy.student.frozen import QuantizedModel

__all__ = ["TrtexecReader"]

_DIGITS = 6
"""Of a number in ``outputs.json``: ``trtexec`` prints as C++ does."""


class TrtexecReader:
    """Of the folder of ``TrtexecKit``."""

    runtime = "tensorrt"
    title = "TensorRT on the device"

    def bound(self, model: QuantizedModel) -> Bound:
        """That of an engine, which adds floats."""
        return FLOAT_SUMS

    def compare(self, check: DeviceCheck, path: Path) -> tuple[Parity, str]:
        """The answers against the exact student, and why rows are no integers, or empty.

        Raises:
            BundleError: the file is damaged, or of other images.
            ParityError: a logit is not finite.
        """
        exact = torch.tensor(check.logits, dtype=torch.float32)
        found = _read(path, exact.shape)
        parity = compare(exact, found.to(torch.float32), check.task)
        step = None if check.step is None else torch.tensor(check.step, dtype=torch.float64)
        untold = _untold(found, step)
        if step is not None and not untold:
            same = (found / step).round() == (exact.double() / step).round()
            parity = replace(parity, same_rows=float(same.all(1).double().mean()))
        return parity, untold


def _untold(found: Tensor, step: Tensor | None) -> str:
    """Why the digits do not tell the integers of the last layer, or empty."""
    same = "rows are those equal to 1e-5 of the largest logit:"
    if step is None:
        return f"{same} no single layer ends the network, whose integers could be told"
    exponent = found.abs().clamp_min(1e-30).log10().floor()
    rounding = 0.5 * 10.0 ** (exponent - _DIGITS + 1)
    if bool((rounding < 0.4 * step).all()):
        return ""
    return f"{same} the {_DIGITS} digits that trtexec prints do not tell its integers apart"


def _read(path: Path, shape: torch.Size) -> Tensor:
    """Logits float64 of all runs, in their order."""
    try:
        runs = [_logits(run) for run in _documents(path.read_text("utf-8"))]
    except (OSError, RecursionError, TypeError, ValueError) as error:
        raise BundleError(
            "device outputs must be what trtexec wrote with --exportOutput",
            f"{path} ({error})",
            "run build.sh on the device again and copy its outputs.json",
        ) from error
    rows = [row for run in runs for row in run]
    if len(rows) != shape[0] or any(len(row) != shape[1] for row in rows):
        widths = sorted({len(row) for row in rows})
        raise BundleError(
            f"device outputs must have {shape[1]} logits of each of the {shape[0]} check images",
            f"{len(rows)} rows of {widths} in {path}",
            "run the build.sh of the same folder on the device and copy its outputs.json",
        )
    return torch.tensor(rows, dtype=torch.float64)


def _documents(text: str) -> Iterator[Any]:
    """The JSON values that follow each other in a file, one per run."""
    # C++ prints these two otherwise than JSON's readers take them.
    text = re.sub(r"(?<![\w\"])-?nan(?![\w\"])", "NaN", text)
    text = re.sub(r"(?<![\w\"])(-?)inf(?![\w\"])", r"\1Infinity", text).strip()
    decoder = json.JSONDecoder()
    position = 0
    while position < len(text):
        value, end = decoder.raw_decode(text, position)
        yield value
        position = end + len(text[end:]) - len(text[end:].lstrip())


def _logits(run: Any) -> list[list[float]]:
    """Rows of one run: tensors with ``name``, ``dimensions`` such as ``8x10`` and ``values``."""
    tensors = run if isinstance(run, list) else [run]
    named = [x for x in tensors if isinstance(x, dict) and x.get("name") == "logits"]
    if len(named) != 1:
        raise ValueError("no tensor 'logits'")
    size = [int(n) for n in str(named[0].get("dimensions")).split("x")]
    values = [float(value) for value in named[0].get("values") or ()]
    if len(size) != 2 or prod(size) != len(values):
        raise ValueError(f"{len(values)} values of {named[0].get('dimensions')!r}")
    return [values[start : start + size[1]] for start in range(0, len(values), size[1])]
