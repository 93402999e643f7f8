"""A folder from which ``trtexec`` builds and checks an engine on a device without lrq-deploy."""

import os
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor, fx

from lrq_deploy.errors import OptionError, OutputError, WriteError
from lrq_deploy.export.bundle import Bundle
from lrq_deploy.export.device.check import EXPECTED_NAME, DeviceCheck
from lrq_deploy.export.device.script import SCRIPT_NAME, CheckRuns, build_script, images_name
from lrq_deploy.export.engine.from_bundle import graph_of, with_half_rest
from lrq_deploy.export.engine.options import BatchProfile, EngineOptions, check_batch
from lrq_deploy.export.manifest import FileRecord
from lrq_deploy.export.output_directory import check_writable, publish
from lrq_deploy.export.parity.compare import compare
from lrq_deploy.export.parity.simulation import exact_logits
from lrq_deploy.export.validation_images import synthetic_batches
from lrq_deploy.student.frozen import FrozenLayer, QuantizedModel

__all__ = ["DeviceFolder", "check_runs", "write_device_folder"]

_MOST_IMAGES = 64
_MOST_RUNS = 16
_MOST_BYTES = 64 * 2**20
"""Of check images, which are copied to the device; a single smallest batch may hold more."""

_BATCH = 32
"""As in ``validate``, whose first made images are the check images."""


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


def write_device_folder(bundle: Bundle, options: EngineOptions, out: Path) -> DeviceFolder:
    """Write the graph, check images, what they must give, and ``build.sh``; needs no TensorRT.

    Raises:
        BundleError: the bundle has no graph for TensorRT.
        OptionError: the options are for another engine, or the batch is too large for a runtime.
        OutputError: ``out`` is there or cannot be written.
        WriteError: the disk refuses.
        ExportError: the graph in FP16 does not pass ``onnx.checker``.
        ParityError: the student gives logits that are not finite.
    """
    if options.kind != "tensorrt":
        raise OptionError(
            "--for-device is for TensorRT, which builds on the device itself",
            f"--engine {options.kind}",
            "pass --engine tensorrt, or leave --for-device out",
        )
    graph_path = graph_of(bundle)
    _check_new(out)
    check_batch(options.batch.largest, bundle.manifest.input_shape)
    graph = graph_path.read_bytes()
    model = bundle.model()
    runs = check_runs(options.batch, model.input_shape)
    count = runs.size * runs.count
    # Whole batches, because what is drawn for an image depends on its batch.
    batches = synthetic_batches(bundle, model, -(-count // _BATCH) * _BATCH, _BATCH)
    images = torch.cat([*batches])[:count]
    check = _expected(model, images, options, runs, FileRecord.of(graph).sha256)
    files = {
        graph_path.name: with_half_rest(graph) if options.fp16_rest else graph,
        SCRIPT_NAME: build_script(graph_path.name, model.input_shape, options, runs),
        EXPECTED_NAME: check.to_bytes(),
    }
    for run, part in enumerate(images.split(runs.size)):
        files[images_name(run)] = part.contiguous().numpy().astype("<f4").tobytes()
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


def _expected(
    model: QuantizedModel, images: Tensor, options: EngineOptions, runs: CheckRuns, graph: str
) -> DeviceCheck:
    exact = exact_logits(model, images)
    step = _step(model)
    return DeviceCheck(
        graph_sha256=graph,
        network=model.name,
        scheme=model.scheme.describe(),
        fp16_rest=options.fp16_rest,
        batch=options.batch.sizes(),
        images_per_run=runs.size,
        logits=tuple(_short(row) for row in exact),
        step=None if step is None else _short(step),
        simulation=compare(exact, model.logits(images), model.task),
    )


def _step(model: QuantizedModel) -> Tensor | None:
    """``scale_x * scale_w`` of a linear layer whose sums are the logits."""
    (last,) = next(node for node in model.graph.graph.nodes if node.op == "output").args
    if not isinstance(last, fx.Node) or last.op != "call_module":
        return None
    layer = model.graph.get_submodule(str(last.target))
    if not isinstance(layer, FrozenLayer) or layer.spec.kind != "linear":
        return None
    scale = model.table[layer.input_quantizer].scale * layer.weight_scale
    return scale.broadcast_to((model.num_classes,))


def _short(values: Tensor) -> tuple[float, ...]:
    """Nine digits tell all float32 apart; more only fill the file."""
    return tuple(float(f"{value:.9g}") for value in values.tolist())
