"""What the user should know of a network and how it is read, before and after the work."""

from lrq_deploy.method.images.normalisation import PixelCheck
from lrq_deploy.progress import ProgressCallback, StageProgress
from lrq_deploy.teacher import Teacher

__all__ = ["model_remarks"]


def model_remarks(
    teacher: Teacher, pixels: PixelCheck, progress: ProgressCallback
) -> tuple[str, ...]:
    """Say and return them: said early, because work on a network that is fed wrongly is lost."""
    remarks = [*teacher.remarks, pixels.remark]
    said = tuple(remark for remark in remarks if remark)
    for remark in said:
        StageProgress(progress, "load", 1).advance(message=remark)
    return said
