"""Results that are logits in another shape, and the refusal of those that are none."""

from typing import Any

import torch
from torch import Tensor, fx

from lrq_deploy.errors import UnsupportedNetworkError
from lrq_deploy.graph.operators import is_call
from lrq_deploy.graph.outputs import ONLY_MOVE
from lrq_deploy.task import Task

__all__ = ["check_alone", "check_rows", "check_unmasked", "drop_idle_moves", "make_rows"]

aten = torch.ops.aten

_ROUNDING = 1e-2
"""Relative to the largest logit; sums of another batch may be added in another order."""


def make_rows(graph_module: fx.GraphModule, task: Task) -> None:
    """Give a result ``[N, C, 1, 1]`` or ``[N, C, 1]`` the shape ``[N, C]``, in place.

    Where each logit says yes or no, a single one per image may also come as ``[N]``.
    """
    output = graph_module.graph.output_node()
    node: Any = output.args[0]
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return
    if value.dim() > 2 and all(isinstance(n, int) and n == 1 for n in value.shape[2:]):
        rows, size = value.flatten(1), value.shape[1]
    elif task == "multilabel" and value.dim() == 1 and _batch(value) == _images(graph_module):
        rows, size = value.unsqueeze(1), 1
    else:
        return
    with graph_module.graph.inserting_before(output):
        changed = graph_module.graph.call_function(aten.reshape.default, (node, [-1, size]))
    changed.meta = {**node.meta, "val": rows}
    output.args = (changed,)


def drop_idle_moves(graph_module: fx.GraphModule) -> None:
    """A single logit ``[N, 1]`` that became ``[N]`` and ``[N, 1]`` again is read where it was."""
    output = graph_module.graph.output_node()
    node: Any = output.args[0]
    while is_call(node, ONLY_MOVE):
        node = node.args[0]
        value = node.meta.get("val")
        single = isinstance(value, Tensor) and tuple(value.shape[1:]) == (1,)
        if single and _batch(value) == _images(graph_module):
            output.args = (node,)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()


def _images(graph_module: fx.GraphModule) -> str:
    source = next(n for n in graph_module.graph.nodes if n.op == "placeholder")
    return _batch(source.meta.get("val"))


def _batch(value: Any) -> str:
    """Size of the first axis as text: asking whether symbols are equal would tie them."""
    return str(value.shape[0]) if isinstance(value, Tensor) else ""


def check_rows(result: Any, batch: int, fewest: int) -> None:
    """The result for ``batch`` images must be logits ``[N, classes]``.

    Raises:
        UnsupportedNetworkError: says what to return instead.
    """
    shape = tuple(result.shape)
    if result.is_floating_point() and len(shape) == 2 and shape[0] == batch:
        count = shape[1]
    elif result.is_floating_point() and shape == (batch,):
        count = 1
    else:
        kind = str(result.dtype).removeprefix("torch.")
        raise UnsupportedNetworkError(
            "the network must return logits [N, classes]",
            f"{kind} {shape} for a batch of {batch}",
            _instead(result),
        )
    if count < fewest:
        raise UnsupportedNetworkError(
            "the network must have at least 2 classes",
            f"{count} logit per image",
            "pass --task multilabel where a single logit says yes or no",
        )


def _instead(result: Tensor) -> str:
    if not result.is_floating_point():
        return "return the logits, not their argmax or another answer that is made of them"
    if result.dim() == 2:
        return (
            "the batch is written into the network: take the number of images out of forward, or "
            "export the archive with a dynamic batch"
        )
    if result.dim() < 2:
        return "return a row of logits per image, not a loss or a sum over images"
    pooled = "y.mean((2, 3))" if result.dim() == 4 else "y[:, 0] or y.mean(1)"
    return (
        f"wrap it in a module that returns one row of logits per image, such as {pooled}, if it is "
        "a classifier; detection and segmentation heads are not supported"
    )


def check_unmasked(logits: Tensor) -> None:
    """No class may be infinite on all images beside finite ones: no student learns that.

    Raises:
        UnsupportedNetworkError: names the first such class.
    """
    masked = logits.isneginf().all(0) | logits.isposinf().all(0)
    if not bool(masked.any()) or not bool(logits.isfinite().all(0).any()):
        return
    numbers = masked.nonzero()[:, 0].tolist()
    more = f" and {len(numbers) - 1} more" if len(numbers) > 1 else ""
    raise UnsupportedNetworkError(
        "the logits of every class must be finite",
        f"{float(logits[0, numbers[0]])} for class {numbers[0]} (counted from 0){more}, whatever "
        "the image",
        "return the logits without the mask, or mask with a large finite number such as -1e4",
    )


def check_alone(logits: Tensor, known: Tensor | None) -> None:
    """The first images must get the logits that they got in a smaller batch.

    Raises:
        UnsupportedNetworkError: they did not.
    """
    if known is None or not bool(torch.isfinite(logits).all()):
        return
    off = float((logits[: len(known)] - known).abs().max())
    if off > _ROUNDING * float(logits.abs().max()):
        raise UnsupportedNetworkError(
            "the logits of an image must not depend on the other images or on chance",
            f"logits that move by {off:.3g} with a larger batch",
            "take statistics of the batch and random numbers out of forward, and pass "
            "training=self.training to F.dropout",
        )
