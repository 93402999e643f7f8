"""What the logits of a network mean: one class per image, or a yes or no per label."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Task", "answers"]

Task = Literal["multiclass", "multilabel"]


def answers(logits: "Tensor", task: Task) -> "Tensor":
    """What a network answers: the best class ``[N, 1]``, or a yes per positive logit ``[N, K]``.

    Args:
        logits: ``[N, K]``.
        task: what they mean.
    """
    return logits > 0 if task == "multilabel" else logits.argmax(1, keepdim=True)
