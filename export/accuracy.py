"""Teacher against student on images that were never used for fitting."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from lrq_deploy.errors import ImageError
from lrq_deploy.export.session import Session
from lrq_deploy.teacher import Teacher

__all__ = ["Fidelity", "measure"]


@dataclass(frozen=True)
class Fidelity:
    """What the student lost.

    Attributes:
        count: images measured.
        labelled: images with a label.
        agreement: share of all images with the same top-1, 0..1.
        teacher_accuracy: top-1 share on the labelled images, None without labels.
        student_accuracy: the same for the student.
        lost: labelled images that only the teacher gets right.
        gained: labelled images that only the student gets right.
    """

    count: int
    labelled: int
    agreement: float
    teacher_accuracy: float | None
    student_accuracy: float | None
    lost: int
    gained: int

    @property
    def drop_points(self) -> float | None:
        """Lost accuracy in percentage points; negative where the student is better."""
        if self.teacher_accuracy is None or self.student_accuracy is None:
            return None
        return 100 * (self.teacher_accuracy - self.student_accuracy)

    def to_json(self) -> dict[str, float | None]:
        """Plain values with the drop."""
        return {**vars(self), "drop_points": self.drop_points}


def measure(
    teacher: Teacher, session: Session, images: Iterable[tuple[Tensor, Tensor | None]]
) -> Fidelity:
    """Run both on batches ``([n, C, H, W], [n] or None)`` of normalised images.

    Raises:
        ImageError: there are no images.
    """
    count = labelled = same = teacher_right = student_right = lost = gained = 0
    for batch, labels in images:
        ours, theirs = session.logits(batch).argmax(1), teacher.logits(batch).argmax(1)
        count += len(batch)
        same += int((ours == theirs).sum())
        if labels is not None:
            hit, teacher_hit = ours == labels, theirs == labels
            labelled += len(labels)
            student_right += int(hit.sum())
            teacher_right += int(teacher_hit.sum())
            lost += int((teacher_hit & ~hit).sum())
            gained += int((hit & ~teacher_hit).sum())
    if count == 0:
        raise ImageError("measuring needs images", "none", "pass a folder with images")
    return Fidelity(
        count=count,
        labelled=labelled,
        agreement=same / count,
        teacher_accuracy=teacher_right / labelled if labelled else None,
        student_accuracy=student_right / labelled if labelled else None,
        lost=lost,
        gained=gained,
    )
