"""A batch in pieces, one after another: less memory for the same gradient.

Gradient caching (Gao et al. 2021, arXiv 2101.06983, section 3.2): what the loss needs of all images
together is small (logits, moments of maps, means of errors). It is computed piece by piece without
keeping a graph; the loss and its gradient with regard to it are those of the whole batch; then
each piece is computed again, with a graph, and takes its part of that gradient further back.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["MOST_PIECES", "Pieces"]

MOST_PIECES = 16
"""Beyond, what is left is mostly weights, their gradients and their optimiser."""

L = TypeVar("L")


class Pieces:
    """In how many equal pieces a stage takes its batch.

    Attributes:
        images: of a batch, 1 or more.
        count: of pieces; divides ``images``.
    """

    def __init__(self, images: int) -> None:
        self.images = images
        self.count = 1

    def shrink(self) -> bool:
        """Take at least twice as many pieces; False where there is no such number."""
        counts = range(2 * self.count, MOST_PIECES + 1)
        fitting = [count for count in counts if self.images % count == 0]
        self.count = fitting[0] if fitting else self.count
        return bool(fitting)

    def figures(self, stage: str) -> dict[str, float]:
        """The number of pieces for the manifest; nothing where the batch stayed whole."""
        return {} if self.count == 1 else {f"{stage}_pieces": float(self.count)}

    def mapped(self, network: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
        """``network`` of a batch ``[N, ...]``, for use without gradients."""
        if self.count == 1:
            return network(batch)
        return torch.cat([network(part) for part in batch.chunk(self.count)])

    def backward(
        self,
        batch: Sequence[Tensor],
        seen: Callable[..., Sequence[Tensor]],
        loss: Callable[..., tuple[Tensor, L]],
    ) -> L:
        """Add the gradient of ``loss(*seen(*batch))`` to what it depends on.

        Args:
            batch: tensors ``[N, ...]``; gradients go on to what they were made from.
            seen: what the loss needs of some images: rows that describe one image each, or one
                row ``[1, ...]`` that describes all of them.
            loss: of these rows for all images, a scalar, and what else is to be known of it.

        Returns:
            The second result of ``loss``.
        """
        if self.count == 1:
            total, told = loss(*seen(*batch))
            total.backward()
            return told
        chunks = zip(*(tensor.chunk(self.count) for tensor in batch), strict=True)
        parts = [[t.detach().requires_grad_(t.requires_grad) for t in chunk] for chunk in chunks]
        # With gradients enabled, for quantizers round otherwise without them.
        rows = [[row.detach() for row in seen(*part)] for part in parts]
        whole = [torch.cat(column).requires_grad_() for column in zip(*rows, strict=True)]
        total, told = loss(*whole)
        total.backward()
        for number, part in enumerate(parts):
            _carry_on(seen(*part), whole, number, self.count)
        for tensor, *mine in zip(batch, *parts, strict=True):
            if tensor.requires_grad:
                tensor.backward(torch.cat([part.grad for part in mine if part.grad is not None]))
        return told


def _carry_on(rows: Sequence[Tensor], whole: Sequence[Tensor], number: int, count: int) -> None:
    """Take the gradient of the rows of one piece back to what they were made from."""
    pairs = [
        (row, known.grad.chunk(count)[number])
        for row, known in zip(rows, whole, strict=True)
        if row.requires_grad and known.grad is not None
    ]
    torch.autograd.backward([row for row, _ in pairs], [gradient for _, gradient in pairs])
