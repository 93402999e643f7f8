"""Which tensor of a network's result is the logits, before any softmax or sigmoid."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from lrq_deploy.errors import OptionError, UnsupportedNetworkError
from lrq_deploy.graph.clipping import clip_limits
from lrq_deploy.graph.operators import ORDER_KEEPING, is_call
from lrq_deploy.task import Task

__all__ = [
    "LOGITS",
    "ONLY_MOVE",
    "PROBABILITIES",
    "pick_output",
    "put_probabilities_last",
    "take_off_probabilities",
]

aten = torch.ops.aten

_LOG_SOFTMAX = {aten.log_softmax.int, aten._log_softmax.default}
_SOFTMAX = _LOG_SOFTMAX | {aten.softmax.int, aten._softmax.default}
PROBABILITIES = _SOFTMAX | {aten.sigmoid.default}
"""What turns logits into probabilities."""

ONLY_MOVE = ORDER_KEEPING | {
    aten.permute.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.transpose.int,
    aten.unflatten.int,
}
"""Movements that hold each value of their input once at most, and nothing else."""

LOGITS = "logits"
"""Name that decides among several outputs of shape ``[N, classes]``."""


@dataclass(frozen=True)
class _Output:
    """One tensor of the result: its path (keys joined by dots), its node, its shape as text.

    ``is_row``: whether all axes behind the second have one place.
    """

    name: str
    node: fx.Node
    rank: int
    shape: str
    is_row: bool

    def describe(self) -> str:
        return f"{self.name} {self.shape}"


def pick_output(output: fx.Node, spec: pytree.TreeSpec, wanted: str | None) -> fx.Node:
    """The node of the logits among everything that the network returns.

    Without ``wanted`` it is the only tensor, else the only one ``[N, classes]``, else the only one
    of these that is named ``logits``. ``[N, classes, 1, 1]`` counts where none has two axes.

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
    tables = tables or [x for x in found if x.is_row]
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


def put_probabilities_last(graph: fx.Graph) -> None:
    """Move a softmax or sigmoid behind the movements that make rows of its result, in place.

    Clamps that keep a probability from 0 and 1 are left out. A softmax over anything but the
    classes stays where it is.
    """
    output = graph.output_node()
    last: Any = output.args[0]
    chain, found = _ending(last)
    if not chain or not is_call(found, PROBABILITIES):
        return
    rest: tuple[Any, ...] = found.args[1:]
    if is_call(found, _SOFTMAX):
        if not _is_over_classes(found, last):
            return
        rest = (1, *found.args[2:])
    # Nothing else reads the chain: all of a graph leads to its end, and each link has one input.
    logits: Any = found.args[0]
    found.replace_all_uses_with(logits)
    with graph.inserting_before(output):
        moved = graph.call_function(found.target, (last, *rest), found.kwargs)
    moved.meta = dict(last.meta)
    output.args = (moved,)
    graph.erase_node(found)
    for clamp in (node for node in chain if not is_call(node, ONLY_MOVE)):
        source: Any = clamp.args[0]
        clamp.replace_all_uses_with(source)
        graph.erase_node(clamp)


def take_off_probabilities(graph_module: fx.GraphModule, task: Task) -> None:
    """Make the input of a softmax or sigmoid that ends a normalised graph its result, in place.

    The answers stay the same, and distillation needs the logits.

    Raises:
        UnsupportedNetworkError: what ends the network contradicts ``task``.
    """
    output = graph_module.graph.output_node()
    chain, last = _ending(output.args[0])
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
    if chain or not (sigmoid or _is_over_classes(last, last)):
        return
    output.args = (last.args[0],)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()


def _ending(last: Any) -> tuple[list[fx.Node], Any]:
    """The movements and clamps that end a graph, last one first, and what they work on."""
    chain: list[fx.Node] = []
    node = last
    while is_call(node, ONLY_MOVE) or _clamps_probabilities(node):
        chain.append(node)
        node = node.args[0]
    clamped = any(not is_call(n, ONLY_MOVE) for n in chain)
    return ([], last) if clamped and is_call(node, _LOG_SOFTMAX) else (chain, node)


def _clamps_probabilities(node: fx.Node) -> bool:
    """Whether a clamp leaves the yes and no of a probability, as ``clamp(eps, 1 - eps)`` does."""
    low, high = clip_limits(node) or (1.0, 0.0)
    return (low is None or low < 0.5) and (high is None or high > 0.5)


def _is_over_classes(softmax: fx.Node, last: fx.Node) -> bool:
    """Whether the axis of a softmax is all that ``last``, which only moves it, has per image."""
    value, rows = softmax.meta.get("val"), last.meta.get("val")
    axis: Any = softmax.args[1]
    if not isinstance(value, Tensor) or not isinstance(rows, Tensor) or rows.dim() != 2:
        return False
    sizes = list(value.shape)
    classes = sizes.pop(axis)
    return axis % value.dim() != 0 and all(n == 1 for n in sizes[1:]) and classes == rows.shape[1]


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
            is_row = value.dim() > 1 and all(str(n) == "1" for n in value.shape[2:])
            found.append(_Output(_path_name(path), node, value.dim(), shape, is_row))
    return found


def _path_name(path: pytree.KeyPath) -> str:
    """``('heads', 0)`` as ``heads.0``; a bare tensor is ``0``."""
    parts = []
    for key in path:
        known = (getattr(key, name, None) for name in ("key", "idx", "name"))
        parts.append(str(next((part for part in known if part is not None), key)))
    return ".".join(parts) or "0"
