"""What stands where a generator does and knows nothing of the teacher."""

from torch import Tensor, nn

from lrq_deploy.method.images.generator import input_bounds
from lrq_deploy.task import Task
from lrq_deploy.teacher import Preprocessing

__all__ = ["BlindSource"]


class BlindSource(nn.Module):
    """Images within the bounds of the inputs; what is wanted of them does not show.

    Args:
        input_shape: ``(C, H, W)`` of the images to make.
        num_classes, task: of the teacher; the images depend on neither.
        preprocessing: bounds of the inputs.
        bounds: instead, where a generator has learned them; as ``bounds()``.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        preprocessing: Preprocessing,
        task: Task = "multiclass",
        bounds: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.num_classes = num_classes
        self.task: Task = task
        if bounds is None:
            low, high = input_bounds(input_shape[0], preprocessing)
            bounds = low[:, None, None], high[:, None, None]
        self.register_buffer("low", bounds[0])
        self.register_buffer("high", bounds[1])

    low: Tensor
    high: Tensor

    def embed(self, wanted: Tensor) -> Tensor:
        """What is wanted, which the images do not show."""
        return wanted

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest input per channel, each ``[C, 1, 1]``."""
        return self.low, self.high
