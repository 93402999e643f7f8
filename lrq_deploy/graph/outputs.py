"""Which tensor of a network's result is the logits, before any softmax or sigmoid."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from lrq_deploy.errors import OptionError, UnsupportedNetworkError
from lrq_deploy.graph.operators import is_call
from lrq_deploy.task import Task

__all__ = ["LOGITS", "PROBABILITIES", "pick_output", "take_off_probabilities"]

aten = torch.ops.aten

_SOFTMAX = {
    aten.softmax.int,
    aten._softmax.default,
    aten.log_softmax.int,
    aten._log_softmax.default,
}
PROBABILITIES = _SOFTMAX | {aten.sigmoid.default}
"""What turns logits into probabilities."""

LOGITS = "logits"
"""Name that decides among several outputs of shape ``[N, classes]``."""


@dataclass(frozen=True)
class _Output:
    """One tensor of the result: its path (keys joined by dots), its node, its shape as text."""

    name: str
    node: fx.Node
    rank: int
    shape: str

    def describe(self) -> str:
        return f"{self.name} {self.shape}"


def pick_output(output: fx.Node, spec: pytree.TreeSpec, wanted: str | None) -> fx.Node:
    """The node of the logits among everything that the network returns.

    Without ``wanted`` it is the only tensor, else the only one ``[N, classes]``, else the only one
    of these that is named ``logits``.

    Args:
        output: the output node of the captured graph, its leaves flat.
        spec: how the leaves are packed into dicts, tuples and lists.
        wanted: path of one tensor such as ``logits`` or ``heads.0``, or its number among all.

    Raises:
        OptionError: nothing is called ``wanted``.
        UnsupportedNetworkError: no tensor, or several of which none is named ``logits``.
    """
    found = _outputs(output, spec)
    if wanted is not None:
        return _named(found, wanted)
    tables = found if len(found) == 1 else [x for x in found if x.rank == 2]
    chosen = tables if len(tables) == 1 else [x for x in tables if x.name == LOGITS]
    if len(chosen) == 1:
        return chosen[0].node
    if not tables:
        raise UnsupportedNetworkError(
            "the network must return logits [N, classes]",
            _listing(found) or "no tensor",
            "detection and segmentation heads are not supported; wrap a classifier",
        )
    raise UnsupportedNetworkError(
        "the network must return one tensor [N, classes], or one that is named logits",
        f"{len(found)} outputs: {_listing(found)}",
        f"pass --output with one of them, for instance --output {tables[0].name}",
    )


def take_off_probabilities(graph_module: fx.GraphModule, task: Task) -> None:
    """Make the input of a softmax or sigmoid that ends a normalised graph its result, in place.

    The answers stay the same, and distillation needs the logits.

    Raises:
        UnsupportedNetworkError: what ends the network contradicts ``task``.
    """
    output = graph_module.graph.output_node()
    last: Any = output.args[0]
    if not is_call(last, PROBABILITIES):
        return
    sigmoid = not is_call(last, _SOFTMAX)
    if sigmoid != (task == "multilabel"):
        raise UnsupportedNetworkError(
            "a network that ends in a sigmoid says yes or no per label, one that ends in a softmax "
            "names one class",
            f"{'sigmoid' if sigmoid else 'softmax'} with --task {task}",
            f"pass --task {'multilabel' if sigmoid else 'multiclass'}",
        )
    output.args = (last.args[0],)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()


def _named(found: list[_Output], wanted: str) -> fx.Node:
    for output in found:
        if output.name == wanted:
            return output.node
    if wanted.isdecimal() and int(wanted) < len(found):
        return found[int(wanted)].node
    raise OptionError(
        "--output must name one tensor of the network's result",
        f"{wanted!r}; there is {_listing(found) or 'no tensor'}",
        "pass one of these, or its number counted from 0",
    )


def _listing(found: list[_Output]) -> str:
    return ", ".join(output.describe() for output in found)


def _outputs(output: fx.Node, spec: pytree.TreeSpec) -> list[_Output]:
    leaves: Any = output.args[0]
    packed = pytree.tree_unflatten(list(leaves), spec)
    paths, _ = pytree.tree_flatten_with_path(packed, is_leaf=lambda x: isinstance(x, fx.Node))
    found = []
    for path, node in paths:
        value = node.meta.get("val") if isinstance(node, fx.Node) else None
        if isinstance(value, Tensor):
            sizes = ["N", *(str(n) for n in value.shape[1:])] if value.dim() else []
            shape = f"[{', '.join(sizes)}]"
            found.append(_Output(_path_name(path), node, value.dim(), shape))
    return found


def _path_name(path: pytree.KeyPath) -> str:
    """``('heads', 0)`` as ``heads.0``; a bare tensor is ``0``."""
    parts = []
    for key in path:
        known = (getattr(key, name, None) for name in ("key", "idx", "name"))
        parts.append(str(next((part for part in known if part is not None), key)))
    return ".".join(parts) or "0"
