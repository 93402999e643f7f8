"""Check a finished graph against the teacher and the student."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lrq_deploy.export.measures.accuracy import Fidelity, measure
from lrq_deploy.export.measures.coverage import Coverage, audit
from lrq_deploy.export.measures.latency import Benchmark, BenchmarkOptions, measure_latency
from lrq_deploy.export.parity.compare import Parity
from lrq_deploy.export.parity.ladder import Ladder, climb
from lrq_deploy.export.parity.student import student_parity
from lrq_deploy.export.runtime.session import open_session
from lrq_deploy.export.targets import REFERENCE, targets
from lrq_deploy.images import ImageSet
from lrq_deploy.progress import ProgressCallback, StageProgress
from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.synthetic import SyntheticSet
from lrq_deploy.teacher import Teacher

__all__ = ["Checked", "check", "images_of"]

PARITY_IMAGES = (32, 1000)
PARITY_PIXELS = 2**21
"""Of the images that the exact student runs on, in float64: 1,000 of 32x32, 41 of 224x224."""
BATCH = (4, 64)
BATCH_PIXELS = 2**18
"""Of the images that are in memory at once: 64 of 64x64, 5 of 224x224."""
BRIEF_IMAGES = (4, 32)
BRIEF_PIXELS = 2**16
"""Of the images that every form of the student runs on: 32 of 32x32, 4 of 224x224."""
BRIEF_BENCH = BenchmarkOptions(threads=1, batch_sizes=(1,), runs=30, memory=False)


@dataclass(frozen=True)
class Checked:
    """What the finished graphs were measured to be.

    Attributes:
        fidelity: teacher against student, on ``source``.
        parity: ``model.onnx`` against the exact student, on many images.
        coverage: what runs in integers.
        ladder: every form of the student, on few images.
        benchmark: latency against the float network; None if it was not to be measured.
        source: ``folder`` for the user's images, ``synthetic`` for made ones.
        remarks: on the user's images, such as files that were skipped.
    """

    fidelity: Fidelity
    parity: Parity
    coverage: Coverage
    ladder: Ladder
    benchmark: Benchmark | None
    source: str
    remarks: tuple[str, ...] = ()


def check(
    teacher: Teacher,
    model: QuantizedModel,
    graphs: Mapping[str, bytes],
    twin: bytes | None,
    synthetic: SyntheticSet,
    images: ImageSet | None,
    progress: ProgressCallback,
) -> Checked:
    """Accuracy or agreement, parity, integer coverage and latency of what will ship.

    Args:
        teacher: the original.
        model: the student that the graphs were written from.
        graphs: serialised, by file name; the one of ONNX Runtime among them.
        twin: float network to time it against; None leaves the latency out.
        synthetic: measured where ``images`` is absent.
        images: the user's, never used for fitting.
        progress: receives an event per check.

    Raises:
        ParityError: the graph and the student differ by more than the bound.
    """
    graph = graphs[targets().get(REFERENCE).file_name]
    session = open_session(graph)
    report = StageProgress(progress, "check", 3)
    batch = images_of(model.input_shape, BATCH_PIXELS, BATCH)
    if images is None:
        parts = synthetic.held_out.split(batch)
        fidelity = measure(teacher, session, ((part, None) for part in parts))
    else:
        fidelity = measure(teacher, session, images.labelled_batches(batch), images.numbers)
    report.advance(message="accuracy")
    wanted = images_of(model.input_shape, PARITY_PIXELS, PARITY_IMAGES)
    parity = student_parity(model, session, _parity_images(images, synthetic, wanted, batch))
    report.advance(message="parity")
    coverage = audit(model, graph)
    report.advance(message="integer coverage")
    with tempfile.TemporaryDirectory() as name:
        ladder, benchmark = _tried(Path(name), model, graphs, twin, synthetic, progress)
    source = "synthetic" if images is None else "folder"
    remarks = () if images is None else images.remarks()
    remarks += (fidelity.remark,) if fidelity.remark else ()
    return Checked(fidelity, parity, coverage, ladder, benchmark, source, remarks)


def _tried(
    folder: Path,
    model: QuantizedModel,
    graphs: Mapping[str, bytes],
    twin: bytes | None,
    synthetic: SyntheticSet,
    progress: ProgressCallback,
) -> tuple[Ladder, Benchmark | None]:
    """``validate`` and ``bench`` in brief, on the files as they will be written."""
    paths = {name: folder / name for name in graphs}
    for name, data in graphs.items():
        paths[name].write_bytes(data)
    graph = paths[targets().get(REFERENCE).file_name]
    count = images_of(model.input_shape, BRIEF_PIXELS, BRIEF_IMAGES)
    ladder = climb(
        model,
        graph,
        [synthetic.held_out[:: max(len(synthetic.held_out) // count, 1)][:count]],
        {name: paths[file] for name, file in targets().dialects(paths).items()},
        reference_count=1,
        progress=progress,
    )
    if twin is None:
        return ladder, None
    float_graph = folder / "float.onnx"
    float_graph.write_bytes(twin)
    return ladder, measure_latency(float_graph, graph, BRIEF_BENCH, progress)


def images_of(shape: tuple[int, int, int], pixels: int, bounds: tuple[int, int]) -> int:
    """How many images ``(C, H, W)`` hold so many pixels, within bounds."""
    _, height, width = shape
    least, most = bounds
    return min(max(pixels // (height * width), least), most)


def _parity_images(
    images: ImageSet | None, synthetic: SyntheticSet, wanted: int, batch: int
) -> Iterator[Tensor]:
    """Of the user's images, filled up with synthetic ones."""
    given = None if images is None else images.spread(wanted)
    if given is not None:
        yield from given.batches(batch)
    missing = wanted - (0 if given is None else len(given))
    if missing:
        pool = torch.cat([synthetic.held_out, synthetic.images[:missing]])
        yield from pool[:missing].split(batch)
