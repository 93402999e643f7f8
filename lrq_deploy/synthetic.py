"""The synthetic images that stand in for the data nobody has."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["SyntheticSet"]


@dataclass(frozen=True)
class SyntheticSet:
    """Images made from the teacher alone.

    Attributes:
        images: normalised inputs ``[N, C, H, W]`` float32 for fitting the student.
        overlays: painted ones ``[P, C, H, W]`` that the former are blended with.
        held_out: images ``[M, C, H, W]`` never used for fitting, for label-free decisions.
        metrics: figures of the generator at its end, for instance the share of images that
            the teacher puts into the class they were made for.
    """

    images: Tensor
    overlays: Tensor
    held_out: Tensor
    metrics: dict[str, float]
