"""Integer graphs on a CPU without VNNI: ours beside onnxruntime's own quantizer.

There, onnxruntime's uint8 x int8 kernels add pairs of products in saturating 16 bits. This
machine may have VNNI, so every graph runs twice: natively, and under QEMU's user mode emulation
of a CPU that has AVX2 and no VNNI. The emulated CPU executes CPUID itself to say what it has, and
a product that must saturate shows which kernels onnxruntime took.

    apt-get install qemu-user
    python benchmarks/without_vnni.py --shared ../shared --out runs/without-vnni

resnet20_jpeg's graphs are bundles of ``quantize --method calibrate --recipe fast``, without data.
The other networks only show integers: they are calibrated here on 8 real images, and those of
torchvision have random weights. ``quantize_static`` takes the float network and 32 real images.
Emulation is slow; what was computed stays in ``--out`` and is not run again. Exits with 1 where
one of our graphs misses a bound.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

import accuracy
import latency
from emulated_cpu import (
    BATCH,
    Cpu,
    check_emulated,
    checked,
    find_emulator,
    logits,
    look,
    runtime,
)
from profile_steps import model_options

from lrq_deploy.cli.job.preparing import load_teacher
from lrq_deploy.errors import LrqError
from lrq_deploy.export.bundle.folder import load_bundle
from lrq_deploy.export.derived.static_baseline import CALIBRATION_IMAGES, static_baseline
from lrq_deploy.export.dialects.onnxruntime import OnnxRuntimeTarget
from lrq_deploy.export.onnx_graph import float_onnx, save_onnx, to_onnx
from lrq_deploy.export.parity.bounds import MIN_SAME_ROWS_NARROW, Bound
from lrq_deploy.export.parity.compare import Parity, compare
from lrq_deploy.export.parity.simulation import exact_logits
from lrq_deploy.graph.fold_batch_norm import fold_batch_norm
from lrq_deploy.images import ImageSet, read_image_folder
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.teacher import Teacher

STATIC = "quantize_static"
SETTINGS = ("w8a8", "w8a8-ort", "w4a8", "w4a8-ort", "w4a4", "w4a4-ort")
"""``-ort`` is ``--target onnxruntime``, as in the other benchmarks."""
FULL = frozenset({"w8a8", "w4a4", STATIC})
OTHERS = 100
"""Settings outside ``FULL`` run at most so many images: they are there for bits, not accuracy."""
SCHEMES = {**latency.SCHEMES, "w4a4-ort": (Scheme(4, 4, 8), "onnxruntime")}


@dataclass(frozen=True)
class Source:
    """Where the images of a network lie below ``data``, and how many run.

    Attributes:
        images: folder of those that are run, spread evenly over it.
        calibration: folder of those that ``quantize_static`` is calibrated on.
        count: how many run unless ``--count`` says otherwise; emulation costs up to 5 s an image.
        bundle: whether our graphs are bundles of the command line, which take minutes to make.
    """

    images: str
    calibration: str
    count: int
    bundle: bool = False


SOURCES = {
    "resnet20_jpeg": Source("cifar10/test_jpeg", "cifar10/train", 1000, bundle=True),
    "resnet20": Source("cifar10/test", "cifar10/train", 100),
    "resnet32": Source("cifar10/test", "cifar10/train", 50),
    "mobilenet_vww": Source("photos", "photos", 100),
    "resnet18": Source("photos", "photos", 2),
    "mobilenet_v2": Source("photos", "photos", 4),
    "mobilenet_v3_small": Source("photos", "photos", 4),
    "efficientnet_b0": Source("photos", "photos", 2),
}


@dataclass(frozen=True)
class Graph:
    """A graph to run.

    Attributes:
        name: setting, or ``STATIC``.
        path: its file.
        model: the student that it must agree with; None for the graph of another quantizer.
    """

    name: str
    path: Path
    model: QuantizedModel | None = None

    @property
    def bound(self) -> Bound:
        """What it must reach against the exact student, the bounds of ``validate``."""
        return Bound(same_rows=MIN_SAME_ROWS_NARROW if self.name.startswith("w4a4") else 0.0)


@dataclass(frozen=True)
class Row:
    """One graph on both CPUs.

    Attributes:
        network, graph: what ran.
        moved: the emulated CPU against the native one.
        exact: the emulated CPU against the exact student; None for another quantizer.
        bound: of ``exact``.
        range: largest logit of the native CPU.
        accuracy: share of right answers, native and emulated; None without labels.
    """

    network: str
    graph: str
    moved: Parity
    exact: Parity | None
    bound: Bound
    range: float
    accuracy: tuple[float, float] | None

    @property
    def holds(self) -> bool:
        """Whether the graph is within its bound; another quantizer's has none."""
        return self.exact is None or self.bound.holds(self.exact)

    def markdown(self) -> str:
        """A line of the table."""
        shares = [_percent(self.moved.same_top1), _percent(self.moved.identical_rows)]
        exact = ["-", "-"]
        if self.exact is not None:
            exact = [_percent(self.exact.same_top1), _percent(self.exact.same_rows)]
        right = ["-", "-"] if self.accuracy is None else [_percent(x) for x in self.accuracy]
        off = f"{100 * self.moved.max_diff / self.range:.2g} %" if self.moved.max_diff else "0"
        cells = [self.network, self.graph, str(self.moved.count), *shares, off, *exact, *right]
        return "| " + " | ".join(cells) + " |"


HEADER = (
    "| network | graph | images | same top-1 | same bits | logits off by | exact: same top-1 "
    "| exact: same rows | top-1 native | top-1 emulated |\n" + 10 * "|---" + "|"
)


def main() -> None:
    """Run what is missing and print the table."""
    options = _options()
    torch.set_num_threads(1)
    try:
        rows = list(run(options))
    except LrqError as error:
        sys.exit(f"error: {error}")
    missed = [f"{row.network} {row.graph}: {row.bound.describe()}" for row in rows if not row.holds]
    if missed:
        sys.exit("missed: " + "; ".join(missed))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--out", type=Path, default=Path("runs/without-vnni"))
    parser.add_argument("--cache", help="images of bundles, as of quantize; default: in --out")
    parser.add_argument("--networks", nargs="+", choices=SOURCES, default=[*SOURCES])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=[*SETTINGS])
    parser.add_argument("--count", type=int, help="images of every network")
    parser.add_argument("--qemu", default="qemu-x86_64", help="the emulator")
    parser.add_argument("--cpu", default="Haswell-noTSX", help="a CPU model of the emulator")
    return parser.parse_args()


def run(options: argparse.Namespace) -> Iterator[Row]:
    """Describe both CPUs, then print and yield a row for every graph.

    Raises:
        OptionError: there is no emulator, or its CPU is none without VNNI.
    """
    emulator = find_emulator(options.qemu)
    native, emulated = (look(prefix) for prefix in ((), (emulator, "-cpu", options.cpu)))
    check_emulated(emulated, options.cpu)
    print(f"native: {native.describe()}\n\nemulated: {emulated.describe()}")
    print(f"\n{versions(emulator)}\n\n{HEADER}", flush=True)
    for network in options.networks:
        folder = options.out / network
        folder.mkdir(parents=True, exist_ok=True)
        images, graphs = prepare(network, folder, options)
        for graph in graphs:
            chosen = images if graph.name in FULL else images.spread(OTHERS)
            row = measure(network, graph, chosen, (native, emulated), folder)
            print(row.markdown(), flush=True)
            yield row


def prepare(
    network: str, folder: Path, options: argparse.Namespace
) -> tuple[ImageSet, Iterator[Graph]]:
    """The images of a network and its graphs, ours first."""
    source = SOURCES[network]
    if network in accuracy.NETWORKS:
        teacher = load_teacher(model_options(accuracy.NETWORKS[network], options.shared))
    else:
        teacher = latency.network(network, None).teacher

    def read(below: str, classes: int | None, count: int) -> ImageSet:
        about = (teacher.input_shape, teacher.preprocessing, classes, count)
        return read_image_folder(options.shared / "data" / below, *about)

    calibration = read(source.calibration, None, CALIBRATION_IMAGES)

    def graphs() -> Iterator[Graph]:
        if source.bundle:
            yield from _bundles(network, options)
        else:
            few = torch.cat(list(calibration.spread(latency.IMAGES).batches(BATCH)))
            yield from _students(latency.Network(teacher, few), folder, options.settings)
        yield Graph(STATIC, _static(teacher, calibration, folder))

    return read(source.images, teacher.num_classes, options.count or source.count), graphs()


def _bundles(network: str, options: argparse.Namespace) -> Iterator[Graph]:
    """Our graphs of a network, by the command line."""
    for setting in options.settings:
        cell = accuracy.Cell(network, setting, "fast", "calibrate", 0)
        command = [
            *(sys.executable, str(Path(__file__).parent / "accuracy.py")),
            *(f"--shared={options.shared}", f"--out={options.out}", f"--networks={network}"),
            *(f"--settings={setting}", f"--recipes={cell.recipe}", f"--methods={cell.method}"),
            f"--cache={options.cache or options.out / 'cache'}",
        ]
        checked(command)
        bundle = load_bundle(options.out / "bundles" / cell.name)
        yield Graph(setting, bundle.file(OnnxRuntimeTarget().file_name), bundle.model())


def _students(made: latency.Network, folder: Path, settings: list[str]) -> Iterator[Graph]:
    """Our graphs of a network, calibrated here."""
    for setting in settings:
        model = latency.student(made, *SCHEMES[setting])
        path = folder / f"{setting}.onnx"
        save_onnx(to_onnx(model), path)
        yield Graph(setting, path, model)


def _static(teacher: Teacher, calibration: ImageSet, folder: Path) -> Path:
    """What onnxruntime's own quantizer makes of the network."""
    path = folder / f"{STATIC}.onnx"
    if not path.exists():
        source = folder / "float.onnx"
        save_onnx(float_onnx(fold_batch_norm(teacher.graph), teacher.input_shape), source)
        static_baseline(source, calibration.batches(BATCH), path)
    return path


def measure(
    network: str, graph: Graph, chosen: ImageSet, cpus: tuple[Cpu, Cpu], folder: Path
) -> Row:
    """Run a graph on both CPUs and compare."""
    images, labels = torch.cat(list(chosen.batches(BATCH))), chosen.labels
    native, emulated = (logits(graph.path, images, cpu, folder) for cpu in cpus)
    exact = None
    if graph.model is not None:
        exact = compare(exact_logits(graph.model, images), emulated)
    right = None
    if labels is not None:
        first, second = ((x.argmax(1) == labels).double().mean() for x in (native, emulated))
        right = (float(first), float(second))
    largest = float(native.abs().max())
    moved = compare(native, emulated)
    return Row(network, graph.name, moved, exact, graph.bound, largest, right)


def versions(emulator: str) -> str:
    """What the figures depend on."""
    qemu = checked([emulator, "--version"]).splitlines()[0]
    return f"{qemu}; onnxruntime {runtime()}; commit {accuracy.commit()}; one thread"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


if __name__ == "__main__":
    main()
