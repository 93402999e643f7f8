"""Teacher against student on images that were never used for fitting."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lrq_deploy.errors import ImageError
from lrq_deploy.export.measures.intervals import paired_drop_interval, share_interval
from lrq_deploy.export.measures.labelling import AtChance, Labelling, labelling
from lrq_deploy.export.runtime.session import Session
from lrq_deploy.task import answers
from lrq_deploy.teacher import Teacher

__all__ = ["Fidelity", "LabelAgreement", "measure"]


@dataclass(frozen=True)
class LabelAgreement:
    """Where labels stand on their own; most are "no", so that agreement alone says little.

    Attributes:
        exact: share of images on which all labels agree, 0..1.
        f1: of the student's yes answers against the teacher's, all labels together, 0..1; 1
            where neither says yes.
        per_label: share of images on which each label agrees, ``[K]``.
    """

    exact: float
    f1: float
    per_label: tuple[float, ...]


@dataclass(frozen=True)
class Fidelity:
    """What the student lost.

    Attributes:
        count: images measured.
        labelled: images with a label.
        agreement: share of the same answers, 0..1: one per image, or one per label.
        teacher_accuracy: top-1 share on the labelled images, None without labels.
        student_accuracy: the same for the student.
        lost: labelled images that only the teacher gets right.
        gained: labelled images that only the student gets right.
        labels: more on the agreement where an image has several answers.
        remark: on the labels that the images came with, or empty.
        at_chance: how the teacher meets them where they are left out for it, else None.
    """

    count: int
    labelled: int
    agreement: float
    teacher_accuracy: float | None
    student_accuracy: float | None
    lost: int
    gained: int
    labels: LabelAgreement | None = None
    remark: str = ""
    at_chance: AtChance | None = None

    @property
    def drop_points(self) -> float | None:
        """Lost accuracy in percentage points; negative where the student is better."""
        if self.teacher_accuracy is None or self.student_accuracy is None:
            return None
        # In binary, 92 % less 90 % is a bit more than two points.
        return round(100 * (self.teacher_accuracy - self.student_accuracy), 9)

    @property
    def drop_interval(self) -> tuple[float, float] | None:
        """Where the drop on all such images lies, in points, by ``paired_drop_interval``."""
        if self.drop_points is None:
            return None
        low, high = paired_drop_interval(self.lost, self.gained, self.labelled)
        return 100 * low, 100 * high

    @property
    def agreement_interval(self) -> tuple[float, float]:
        """Where the agreement on all such images lies, 0..1, by ``share_interval``.

        Labels of one image are not independent, so that an image counts once.
        """
        return share_interval(self.agreement, self.count)

    def to_json(self) -> dict[str, Any]:
        """Plain values with the drop and the intervals."""
        return {
            **asdict(self),
            "drop_points": self.drop_points,
            "drop_interval": self.drop_interval,
            "agreement_interval": self.agreement_interval,
        }


def measure(
    teacher: Teacher,
    session: Session,
    images: Iterable[tuple[Tensor, Tensor | None]],
    numbers: Tensor | None = None,
) -> Fidelity:
    """Run both on batches ``([n, C, H, W], [n] or None)`` of normalised images.

    Args:
        teacher: the original.
        session: the student's graph.
        images: with the labels of all of them, or of none.
        numbers: see ``labelling``.

    Raises:
        ImageError: there are no images.
    """
    seen: list[tuple[Tensor, Tensor]] = []
    given: list[Tensor] = []
    for batch, labels in images:
        ours = answers(session.logits(batch), teacher.task)
        seen.append((ours, answers(teacher.logits(batch), teacher.task)))
        if labels is not None:
            given.append(labels)
    if not seen:
        raise ImageError("measuring needs images", "none", "pass a folder with images")
    ours, theirs = (torch.cat(side) for side in zip(*seen, strict=True))
    told = Labelling(None)
    if given:
        about = (numbers, teacher.num_classes, bool(teacher.class_names))
        told = labelling(theirs[:, 0], torch.cat(given), *about)
    right = (
        None if told.labels is None else (ours[:, 0] == told.labels, theirs[:, 0] == told.labels)
    )
    return Fidelity(
        count=len(ours),
        labelled=0 if right is None else len(ours),
        agreement=_share(ours == theirs),
        teacher_accuracy=None if right is None else _share(right[1]),
        student_accuracy=None if right is None else _share(right[0]),
        lost=0 if right is None else int((right[1] & ~right[0]).sum()),
        gained=0 if right is None else int((right[0] & ~right[1]).sum()),
        labels=_label_agreement(ours, theirs) if teacher.task == "multilabel" else None,
        remark=told.remark,
        at_chance=told.at_chance,
    )


def _label_agreement(ours: Tensor, theirs: Tensor) -> LabelAgreement:
    """Of yes answers, both ``[N, K]`` bool."""
    same = ours == theirs
    said = int(ours.sum()) + int(theirs.sum())
    return LabelAgreement(
        exact=_share(same.all(1)),
        f1=2 * int((ours & theirs).sum()) / said if said else 1.0,
        per_label=tuple(same.double().mean(0).tolist()),
    )


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())
