"""Latency of quantized graphs against float and against onnxruntime's own quantizer.

Usage: ``python benchmarks/latency.py [--runs N] [--images DIR] [NAME:SCHEME ...]``, for instance
``resnet18:w4a8``; ``-ort`` is ``--target onnxruntime``. Networks have random weights at 224x224
and are calibrated, not trained: latency depends on the values in nothing but which activations get
integer kernels. Runs of all graphs of a
network alternate in one process, on one thread at batch 1, and the table states ratios of
medians. Nothing is downloaded.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torchvision.models import get_model

from lrq_deploy.calibration.observe import calibrate
from lrq_deploy.export.derived.static_baseline import static_baseline
from lrq_deploy.export.measures.latency import BenchmarkOptions, measure_latency
from lrq_deploy.export.onnx_graph import float_onnx, save_onnx, to_onnx
from lrq_deploy.export.targets import targets
from lrq_deploy.graph.fold_batch_norm import fold_batch_norm
from lrq_deploy.graph.teach import make_teacher
from lrq_deploy.images import read_image_folder
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.freeze import frozen_model
from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.student.placement import new_student
from lrq_deploy.teacher import Preprocessing, Teacher

SIDE = 224
IMAGES = 8
PREPROCESSING = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SCHEMES = {
    "w8a8": (Scheme(8, 8, 8), "auto"),
    "w4a8": (Scheme(4, 8, 8), "auto"),
    "w4a4": (Scheme(4, 4, 8), "auto"),
    "w8a8-ort": (Scheme(8, 8, 8), "onnxruntime"),
    "w4a8-ort": (Scheme(4, 8, 8), "onnxruntime"),
}
"""Widths, and ``--target``."""
DEFAULT = [f"{name}:{scheme}" for name in ("resnet18", "mobilenet_v2") for scheme in SCHEMES]
HEADER = (
    "| network | scheme | float ms | ours ms | static ms | ours / float | ours / static | "
    "float file | ours | x smaller |\n|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Network:
    """A float network and real images for it.

    Attributes:
        teacher: captured, with BatchNorm statistics of ``images``.
        images: ``[N, 3, SIDE, SIDE]`` normalised.
    """

    teacher: Teacher
    images: torch.Tensor


def network(name: str, folder: Path | None) -> Network:
    """Random weights; images of the folder or noise, whose statistics BatchNorm gets."""
    torch.manual_seed(0)
    shape = (3, SIDE, SIDE)
    module = get_model(name, weights=None).train()
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = None
    images = torch.randn(IMAGES, *shape)
    if folder is not None:
        found = read_image_folder(folder, shape, PREPROCESSING, None, IMAGES)
        images = next(iter(found.batches(IMAGES)))
    with torch.no_grad():
        module(images)
    return Network(make_teacher(module.eval(), shape, PREPROCESSING, name, "0" * 64), images)


def student(source: Network, scheme: Scheme, target: str) -> QuantizedModel:
    """The network calibrated at a scheme for a target."""
    teacher = source.teacher
    limits = targets().choose(target, scheme).limits
    placed = new_student(teacher, scheme, limits)
    calibrate(placed, source.images, symmetric=True, seed=0)
    return frozen_model(placed, scheme, teacher)


def row(name: str, scheme: str, folder: Path, runs: int, images: Path | None) -> str:
    """Measure one network at one scheme; its graphs stay in ``folder``."""
    source = network(name, images)
    paths = [folder / f"{name}.{kind}.onnx" for kind in ("float", "static", scheme)]
    if not paths[0].exists():
        save_onnx(float_onnx(fold_batch_norm(source.teacher.graph), (3, SIDE, SIDE)), paths[0])
        static_baseline(paths[0], iter([source.images]), paths[1])
    if not paths[2].exists():
        save_onnx(to_onnx(student(source, *SCHEMES[scheme])), paths[2])
    options = BenchmarkOptions(batch_sizes=(1,), runs=runs, memory=False)
    found = measure_latency(paths[0], paths[2], options, static_model=paths[1])
    batch = found.batches[0]
    times = [graph.p50_ms for graph in batch.graphs().values()]
    sizes = (found.float_bytes, found.quantized_bytes)
    return (
        f"| {name} | {scheme.upper()} | {times[0]:.2f} | {times[1]:.2f} | {times[2]:.2f} | "
        f"{batch.ratio:.3f} | {batch.static_ratio:.3f} | {sizes[0] / 2**20:.2f} MiB | "
        f"{sizes[1] / 2**20:.2f} MiB | {sizes[0] / sizes[1]:.2f} |"
    )


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=DEFAULT)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--images", type=Path, help="real images to calibrate on")
    parser.add_argument("--keep", type=Path, help="folder for the graphs; reused if there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(HEADER, flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for case in options.cases:
            name, _, scheme = case.partition(":")
            print(row(name, scheme, folder, options.runs, options.images), flush=True)


if __name__ == "__main__":
    main()
