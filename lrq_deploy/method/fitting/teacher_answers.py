"""What the teacher says of images that come again: asked once, then remembered."""

from collections.abc import Callable

from torch import Tensor

from lrq_deploy.method.fitting.augmented_batches import DrawnBatch
from lrq_deploy.ranks import ALONE, Ranks

__all__ = ["MOST_BYTES", "TeacherAnswers"]

MOST_BYTES = 256 * 2**20
"""Memory for answers, which checkpoints hold too; a teacher of more is asked every time."""


class TeacherAnswers:
    """Rows of numbers by image and view.

    Args:
        ask: ``images [n, C, H, W] -> [n, K]`` float32, without gradients.
        views: how many different images there are.
        ranks: that share each batch, and tell each other what they learn.
    """

    def __init__(self, ask: Callable[[Tensor], Tensor], views: int, ranks: Ranks = ALONE) -> None:
        self._ask = ask
        self._views = views
        self._ranks = ranks
        self.known: Tensor | None = None

    def of(self, drawn: DrawnBatch, images: Tensor) -> Tensor:
        """Answers ``[n, K]`` to ``images``, which are ``drawn.images`` on the device."""
        if self.known is not None and not drawn.new:
            mine = drawn.rows[drawn.part].to(images.device, non_blocking=True)
            return self.known[mine]
        answers = self._ask(images)
        if self.known is None and self._views * answers.shape[1] * 4 <= MOST_BYTES:
            self.known = answers.new_zeros(self._views, answers.shape[1])
        if self.known is not None:
            rows = drawn.rows.to(images.device, non_blocking=True)
            self.known[rows] = self._ranks.collected(answers)
        return answers
