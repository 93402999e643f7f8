"""Check a finished graph against the teacher and the student."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lrq_deploy.export.accuracy import Fidelity, measure
from lrq_deploy.export.coverage import Coverage, audit
from lrq_deploy.export.parity import Parity, student_parity
from lrq_deploy.export.session import open_session
from lrq_deploy.images import ImageSet
from lrq_deploy.progress import ProgressCallback, StageProgress
from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.synthetic import SyntheticSet
from lrq_deploy.teacher import Teacher

__all__ = ["Checked", "check"]

PARITY_IMAGES = 1000
BATCH = 64


@dataclass(frozen=True)
class Checked:
    """What the finished graph was measured to be."""

    fidelity: Fidelity
    parity: Parity
    coverage: Coverage
    source: str


def check(
    teacher: Teacher,
    model: QuantizedModel,
    graph: bytes,
    synthetic: SyntheticSet,
    images: ImageSet | None,
    progress: ProgressCallback,
) -> Checked:
    """Accuracy or agreement, parity and integer coverage of ``graph``.

    Args:
        teacher: the original.
        model: the student that ``graph`` was written from.
        graph: serialised, for ONNX Runtime.
        synthetic: measured where ``images`` is absent.
        images: the user's, never used for fitting.
        progress: receives an event per check.

    Raises:
        ParityError: the graph and the student differ by more than the bound.
    """
    session = open_session(graph)
    report = StageProgress(progress, "check", 3)
    made = synthetic.held_out
    if images is None:
        fidelity = measure(teacher, session, ((part, None) for part in made.split(BATCH)))
    else:
        fidelity = measure(teacher, session, images.labelled_batches(BATCH))
    report.advance(message="accuracy")
    parity = student_parity(model, session, _parity_images(images, synthetic))
    report.advance(message="parity")
    coverage = audit(model, graph)
    report.advance(message="integer coverage")
    return Checked(fidelity, parity, coverage, "synthetic" if images is None else "folder")


def _parity_images(images: ImageSet | None, synthetic: SyntheticSet) -> Iterator[Tensor]:
    """The user's images, filled up with synthetic ones to at least ``PARITY_IMAGES``."""
    given = 0
    if images is not None:
        for batch in images.batches(BATCH):
            given += len(batch)
            yield batch
    missing = max(PARITY_IMAGES - given, 0)
    if missing:
        pool = torch.cat([synthetic.held_out, synthetic.images[: max(missing, 0)]])
        yield from pool[:missing].split(BATCH)
