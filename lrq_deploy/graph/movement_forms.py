"""Pass: movements that few networks use become those that every later stage knows.

Requires: constants are folded; nodes carry the shapes of the trace.
Ensures: stacks are concatenations; ``tile``, ``repeat``, ``flip``, ``roll``, ``repeat_interleave``
and an index by a list select positions along an axis, as runtimes do on integers; so does a nearest
resize, but for one of two axes by whole factors; a border below all values in front of a maximum
pooling repeats the edge. What works along the batch, and an index of several axes at once, stays
as it is.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from lrq_deploy.graph.attributes import add_tensor_node, tensor_of
from lrq_deploy.graph.operators import MOVEMENTS, NON_NEGATIVE, arguments, is_call
from lrq_deploy.graph.replacement import replace_call

__all__ = ["unify_movements"]

aten = torch.ops.aten

LOWEST = -1e3
"""Of what networks compute; borders below it are written for minus infinity."""

Selection = tuple[int, Tensor]
"""An axis, and the positions along it to take."""

Change = Callable[[Tensor], Tensor]

_JOINS: dict[Any, int] = {aten.hstack.default: 1, aten.vstack.default: 0, aten.dstack.default: 2}
"""Concatenations that are named for their axis, which is this one for three axes or more."""


def unify_movements(graph_module: fx.GraphModule) -> None:
    """Apply the pass in place."""
    for node in list(graph_module.graph.nodes):
        if is_call(node, {aten.stack.default}):
            _unify_stack(node)
        elif is_call(node, _JOINS):
            _unify_join(node)
        elif is_call(node, _SELECTIONS):
            _unify_selection(graph_module, node)
        elif is_call(node, {aten.index.Tensor}):
            _unify_index(graph_module, node)
        elif is_call(node, {aten.pad.default, aten.constant_pad_nd.default}):
            _repeat_edge(node)


def _unify_stack(node: fx.Node) -> None:
    parts, axis = arguments(node)
    with node.graph.inserting_before(node):
        grown = [node.graph.call_function(aten.unsqueeze.default, (part, axis)) for part in parts]
    replace_call(node, aten.cat.default, (grown, axis))


def _unify_join(node: fx.Node) -> None:
    parts: Any = node.args[0]
    if all(len(_sizes(part)) >= 3 for part in parts):
        replace_call(node, aten.cat.default, (parts, _JOINS[node.target]))


def _unify_selection(graph_module: fx.GraphModule, node: fx.Node) -> None:
    sizes = _sizes(node.args[0])
    selections = _SELECTIONS[node.target](sizes, *node.args[1:]) if sizes else None
    if selections is not None:
        _select(graph_module, node, selections)


def _unify_index(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """``x[:, [2, 0, 1]]``, or by a stored mask; positions of several axes become one axis first."""
    moved: Any = node.args[0]
    stored: Any = node.args[1]
    sizes = _sizes(moved)
    axes = [axis for axis, index in enumerate(stored) if index is not None]
    if len(axes) != 1 or not sizes or not isinstance(sizes[axes[0]], int):
        return
    index = tensor_of(graph_module, stored[axes[0]]) if stored[axes[0]].op == "get_attr" else None
    if index is None or (index.dtype is torch.bool and index.dim() != 1):
        return
    positions = index.nonzero()[:, 0] if index.dtype is torch.bool else index % sizes[axes[0]]
    _select(graph_module, node, [(axes[0], positions.flatten())], list(positions.shape))


def _select(
    graph_module: fx.GraphModule,
    node: fx.Node,
    selections: list[Selection],
    shape: Sequence[int] = (-1,),
) -> None:
    """``shape``: of the last selected axis, where it becomes none or several."""
    moved: Any = node.args[0]
    for axis, positions in selections:
        with node.graph.inserting_before(node):
            index = add_tensor_node(graph_module, f"{node.name}_positions", positions)
            moved = node.graph.call_function(aten.index_select.default, (moved, axis, index))
    if len(shape) != 1:
        with node.graph.inserting_before(node):
            moved = _reshaped(node.graph, moved, selections[-1][0], shape)
    moved.meta = dict(node.meta)
    node.replace_all_uses_with(moved)
    node.graph.erase_node(node)


def _reshaped(graph: fx.Graph, moved: fx.Node, axis: int, shape: Sequence[int]) -> fx.Node:
    if not shape:
        return graph.call_function(aten.squeeze.dim, (moved, axis))
    return graph.call_function(aten.unflatten.int, (moved, axis, list(shape)))


def _repeat_edge(node: fx.Node) -> None:
    """Each window that reaches into the border holds the edge, which decides as without it."""
    sides: Any = node.args[1]
    if not _is_below_all(node) or len(sides) != 4 or min(sides) < 0:
        return
    if all(_holds_an_edge(pool, sides) for pool in node.users):
        replace_call(node, aten.replication_pad2d.default, (node.args[0], sides))


def _is_below_all(border: fx.Node) -> bool:
    """Whether no value is less than the border's, such as a finite stand-in for infinity."""
    fill = border.args[-1]
    if not isinstance(fill, int | float):
        return False
    return fill <= LOWEST or (fill < 0 and is_call(border.all_input_nodes[0], NON_NEGATIVE))


def _holds_an_edge(pool: fx.Node, sides: Sequence[int]) -> bool:
    """Whether no window of ``pool`` lies in the border alone, or steps over the edge."""
    if not is_call(pool, {aten.max_pool2d.default}):
        return False
    _, kernel, _, padding, dilation, _ = arguments(pool)
    high, wide = (kernel[a % len(kernel)] - padding[a % len(padding)] for a in (0, 1))
    return bool(max(sides[:2]) < wide and max(sides[2:]) < high and max(dilation) == 1)


def _sizes(node: Any) -> list[Any]:
    """Of the trace; the batch is symbolic. Empty where they are not known."""
    value = node.meta.get("val")
    return list(value.shape) if isinstance(value, Tensor) else []


def _positions(sizes: list[Any], changes: list[tuple[int, Change]]) -> list[Selection] | None:
    """Selections along some axes; ``None`` where one of them is the batch."""
    lengths = [sizes[axis] for axis, _ in changes]
    if not all(isinstance(length, int) for length in lengths):
        return None
    return [(axis % len(sizes), change(torch.arange(sizes[axis]))) for axis, change in changes]


def _flip(sizes: list[Any], axes: list[int]) -> list[Selection] | None:
    return _positions(sizes, [(axis, lambda index: index.flip(0)) for axis in axes])


def _roll(sizes: list[Any], shifts: list[int], axes: Sequence[int] = ()) -> list[Selection] | None:
    if len(shifts) != len(axes):
        return None
    pairs = zip(axes, shifts, strict=True)
    return _positions(sizes, [(axis, partial(torch.roll, shifts=by)) for axis, by in pairs])


def _repeat(sizes: list[Any], counts: list[Any]) -> list[Selection] | None:
    missing = len(sizes) - len(counts)
    if missing < 0 or not all(isinstance(count, int) for count in counts):
        return None
    repeated = [(missing + place, n) for place, n in enumerate(counts) if n != 1]
    return _positions(sizes, [(axis, partial(_behind_each_other, count=n)) for axis, n in repeated])


def _behind_each_other(index: Tensor, count: int) -> Tensor:
    return index.repeat(count)


def _repeat_interleave(
    sizes: list[Any], count: Any, axis: int | None = None
) -> list[Selection] | None:
    if axis is None or not isinstance(count, int):
        return None
    return _positions(sizes, [(axis, partial(torch.repeat_interleave, repeats=count))])


def _nearest(resize: Any, sizes: list[Any], *arguments: Any) -> list[Selection] | None:
    """The positions that torch reads; ONNX Runtime takes others for some pairs of sides."""
    sides = sizes[2:]
    if not all(isinstance(side, int) for side in sides):
        return None
    selections: list[Selection] = []
    for place, side in enumerate(sides):
        ramp = torch.arange(side, dtype=torch.float32)
        shape = [1] * len(sizes)
        shape[2 + place] = side
        read = resize(ramp.view(shape).expand(1, 1, *sides), *arguments)
        rest = [slice(None) if axis == 2 + place else 0 for axis in range(len(sizes))]
        selections.append((2 + place, read[tuple(rest)].long()))
    whole = all(_repeats(read, sides[axis - 2]) for axis, read in selections)
    # A resize by whole factors is one operator of integers, and every runtime does it alike.
    if whole and _states_whole(arguments) and resize in MOVEMENTS:
        return None
    same = [torch.equal(read, torch.arange(sides[axis - 2])) for axis, read in selections]
    return [pair for pair, kept in zip(selections, same, strict=True) if not kept] or selections


def _states_whole(arguments: tuple[Any, ...]) -> bool:
    """Whether factors, where a resize is given any, are whole."""
    parts = [part if isinstance(part, list | tuple) else [part] for part in arguments]
    return all(n.is_integer() for part in parts for n in part if isinstance(n, float))


def _repeats(positions: Tensor, side: int) -> bool:
    """Whether each position along a side is taken equally often."""
    times, rest = divmod(len(positions), side)
    return not rest and torch.equal(positions, torch.arange(side).repeat_interleave(times))


_NEAREST = [
    getattr(getattr(aten, name), overload)
    for name in (
        "upsample_nearest1d",
        "upsample_nearest2d",
        "_upsample_nearest_exact1d",
        "_upsample_nearest_exact2d",
    )
    for overload in ("default", "vec")
]

_SELECTIONS: dict[Any, Callable[..., list[Selection] | None]] = {
    aten.flip.default: _flip,
    aten.fliplr.default: lambda sizes: _flip(sizes, [1]),
    aten.flipud.default: lambda sizes: _flip(sizes, [0]),
    aten.repeat.default: _repeat,
    aten.repeat_interleave.self_int: _repeat_interleave,
    aten.roll.default: _roll,
    aten.tile.default: _repeat,
    **{resize: partial(_nearest, resize) for resize in _NEAREST},
}
