"""Whether a network returns probabilities, which its teacher and every graph leave out."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from lrq_deploy.graph.capture import example_input
from lrq_deploy.teacher import Teacher

__all__ = ["probability_remark"]

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits.softmax(1),
    "log-softmax": lambda logits: logits.log_softmax(1),
    "sigmoid": torch.sigmoid,
}
_RELATIVE, _ABSOLUTE = 1e-3, 1e-5
"""Float32 sums of another order, and clamps that keep a probability from 0 and 1."""


def probability_remark(program: nn.Module | ExportedProgram, teacher: Teacher) -> str:
    """That the teacher returns the logits of a network that returns probabilities; or nothing.

    Args:
        program: that the teacher was captured from.
        teacher: without what ended the program.
    """
    images = example_input(teacher.input_shape, _batch(program))
    run = program
    if isinstance(program, ExportedProgram):
        run = program.module(check_guards=False)
    with torch.no_grad():
        results = pytree.tree_leaves(run(images))
    logits = teacher.logits(images)
    rows = [
        value.reshape(logits.shape)
        for value in results
        if isinstance(value, Tensor) and value.numel() == logits.numel()
    ]
    if _holds(rows, logits):
        return ""
    for name, function in _FUNCTIONS.items():
        if _holds(rows, function(logits)):
            return (
                f"the network ends in a {name}, which is left out: the graphs return logits; "
                f"apply a {name.removeprefix('log-')} for probabilities, as classify.py does"
            )
    return ""


def _batch(program: nn.Module | ExportedProgram) -> int:
    """Two images, or as many as an archive was exported for."""
    if not isinstance(program, ExportedProgram):
        return 2
    inputs = program.graph_signature.user_inputs
    values = (node.meta["val"] for node in program.graph.nodes if node.name in inputs)
    size = next(values).shape[0]
    return size if isinstance(size, int) else 2


def _holds(rows: list[Tensor], wanted: Tensor) -> bool:
    return any(torch.allclose(row, wanted, _RELATIVE, _ABSOLUTE) for row in rows)
