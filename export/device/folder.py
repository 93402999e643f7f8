"""A folder that runs and checks a network on a device without lrq-deploy."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from lrq_deploy.errors import OutputError, WriteError
from lrq_deploy.export.bundle.folder import Bundle
from lrq_deploy.export.bundle.manifest import FileRecord
from lrq_deploy.export.bundle.output_directory import check_writable, publish
from lrq_deploy.export.bundle.validation_images import synthetic_batches
from lrq_deploy.export.device.check import (
    EXPECTED_NAME,
    CheckRuns,
    DeviceCheck,
    images_name,
    short,
)
from lrq_deploy.export.engine.options import BatchProfile
from lrq_deploy.export.parity.compare import compare
from lrq_deploy.export.parity.simulation import exact_logits
from lrq_deploy.graph.called_modules import called_module
from lrq_deploy.student.frozen import FrozenLayer, QuantizedModel

__all__ = ["Contents", "DeviceFolder", "DeviceKit", "check_runs", "write_device_folder"]

_MOST_IMAGES = 64
_MOST_RUNS = 16
_MOST_BYTES = 64 * 2**20
"""Of check images, which are copied to the device; a single smallest batch may hold more."""

_BATCH = 32
"""As in ``validate``, whose first made images are the check images."""


@dataclass(frozen=True)
class Contents:
    """What a runtime adds to the check images.

    Attributes:
        files: by name, a graph and a script among them.
        about: plain values for ``DeviceCheck.about``.
        here: logits ``[N, classes]`` of the check images where the runtime is here too.
    """

    files: Mapping[str, bytes]
    about: Mapping[str, Any]
    here: Tensor | None = None


class DeviceKit(Protocol):
    """What a device with one runtime needs. What comes back is read by ``device.outputs``."""

    @property
    def runtime(self) -> str:
        """As ``--engine`` names it."""
        ...

    def graph(self, bundle: Bundle) -> str:
        """The bundle's file that the outputs are of; raises ``BundleError`` if it has none."""
        ...

    def runs(self, input_shape: tuple[int, ...]) -> CheckRuns:
        """How the check images are divided; raises ``OptionError`` where none fit."""
        ...

    def contents(
        self, bundle: Bundle, model: QuantizedModel, runs: CheckRuns, images: Tensor
    ) -> Contents:
        """The files beside the check images ``[N, C, H, W]``."""
        ...


@dataclass(frozen=True)
class DeviceFolder:
    """A written folder.

    Attributes:
        path: the folder.
        size_bytes: of all its files.
        images: number of check images.
        check: contents of its ``expected.json``.
    """

    path: Path
    size_bytes: int
    images: int
    check: DeviceCheck


def check_runs(batch: BatchProfile, input_shape: tuple[int, ...]) -> CheckRuns:
    """As many check images as are worth copying, in the largest batches that hold no more."""
    affordable = min(_MOST_IMAGES, _MOST_BYTES // (4 * prod(input_shape)))
    size = max(batch.smallest, min(batch.largest, affordable))
    return CheckRuns(size, max(1, min(_MOST_RUNS, affordable // size)))


def write_device_folder(bundle: Bundle, kit: DeviceKit, out: Path) -> DeviceFolder:
    """Write what a runtime needs, check images, and what they must give.

    Raises:
        BundleError: the bundle has no graph for the runtime.
        OptionError: the batch is too large, or the graph has no form for the version asked for.
        OutputError: ``out`` is there or cannot be written.
        WriteError: the disk refuses.
        ExportError: a graph that is made for the folder is not right.
        ParityError: the student gives logits that are not finite.
    """
    graph = kit.graph(bundle)
    _check_new(out)
    runs = kit.runs(bundle.manifest.input_shape)
    model = bundle.model()
    count = runs.size * runs.count
    # Whole batches, because what is drawn for an image depends on its batch.
    batches = synthetic_batches(bundle, model, -(-count // _BATCH) * _BATCH, _BATCH)
    images = torch.cat([*batches])[:count]
    contents = kit.contents(bundle, model, runs, images)
    files = dict(contents.files)
    for run, part in enumerate(images.split(runs.size)):
        files[images_name(run)] = part.contiguous().numpy().astype("<f4").tobytes()
    exact, step = exact_logits(model, images), _step(model)
    check = DeviceCheck(
        runtime=kit.runtime,
        graph=graph,
        graph_sha256=bundle.manifest.files[graph].sha256,
        network=model.name,
        scheme=model.scheme.describe(),
        task=model.task,
        files={name: FileRecord.of(data).sha256 for name, data in files.items()},
        images_per_file=runs.size,
        logits=short(exact),
        here=None if contents.here is None else short(contents.here),
        step=None if step is None else short(step[None])[0],
        simulation=compare(exact, model.logits(images), model.task),
        about=contents.about,
    )
    files[EXPECTED_NAME] = check.to_bytes()
    try:
        publish(out, files, force=False)
    except WriteError as error:
        raise WriteError(
            "the folder of --for-device must be written completely",
            error.received,
            "free space on the disk or choose another folder; nothing was left behind",
        ) from error
    return DeviceFolder(out, sum(len(data) for data in files.values()), count, check)


def _check_new(out: Path) -> None:
    # Not pathlib's question, which raises where a name is too long.
    if os.path.lexists(out):
        raise OutputError(
            "--for-device must name a folder that does not exist yet",
            f"{out}",
            "choose another folder, or remove this one",
        )
    check_writable("--for-device", out)


def _step(model: QuantizedModel) -> Tensor | None:
    """``scale_x * scale_w`` of a linear layer whose sums are the logits."""
    last: Any = model.graph.graph.output_node().args[0]
    layer = called_module(model.graph, last)
    if not isinstance(layer, FrozenLayer) or layer.spec.kind != "linear":
        return None
    scale = model.table[layer.input_quantizer].scale * layer.weight_scale
    return scale.broadcast_to((model.num_classes,))
