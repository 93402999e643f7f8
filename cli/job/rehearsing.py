"""The rehearsal of a run: files of an unfitted student, made in memory before it is trained."""

from collections.abc import Sequence

from torch import fx

from lrq_deploy.calibration.stand_in import stand_in_model
from lrq_deploy.export.rehearsal import rehearse
from lrq_deploy.export.targets import Target
from lrq_deploy.scheme import Scheme
from lrq_deploy.teacher import Teacher

__all__ = ["rehearse_student"]


def rehearse_student(
    student: fx.GraphModule, scheme: Scheme, teacher: Teacher, targets: Sequence[Target]
) -> None:
    """Raise ``ExportError`` where a placed student could not be written when it is fitted."""
    rehearse(stand_in_model(student, scheme, teacher), targets)
