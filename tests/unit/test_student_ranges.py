"""What the operators of a graph say of its smallest and largest values."""

from typing import Any

import pytest
import torch
from torch import fx, nn

from lrq_deploy.student.layers import ActQuantizer
from lrq_deploy.student.ranges import largest_values, non_negative_nodes
from lrq_deploy.target import PORTABLE

pytestmark = pytest.mark.unit

aten = torch.ops.aten


def quantizer() -> ActQuantizer:
    return ActQuantizer(PORTABLE.act_range(8, signed=False, symmetric=True), 8, signed=False)


def graph_of(*steps: tuple[Any, ...]) -> tuple[fx.GraphModule, list[fx.Node]]:
    """A chain of operators with their arguments; a module stands for a call of it."""
    graph, root = fx.Graph(), nn.Module()
    nodes = [graph.placeholder("x")]
    for index, (target, *args) in enumerate(steps):
        if isinstance(target, nn.Module):
            root.add_module(f"m{index}", target)
            nodes.append(graph.call_module(f"m{index}", (nodes[-1], *args)))
        else:
            nodes.append(graph.call_function(target, (nodes[-1], *args)))
    graph.output(nodes[-1])
    return fx.GraphModule(root, graph), nodes


@pytest.mark.parametrize(
    ("step", "largest"),
    [
        ((aten.relu6.default,), 6.0),
        ((aten.hardtanh.default, -1.0, 2.0), 2.0),
        ((aten.clamp.default, None, 3.0), 3.0),
        ((aten.sigmoid.default,), 1.0),
        ((aten.softmax.int, 1), 1.0),
        ((aten.relu.default,), None),
        ((aten.neg.default,), None),
    ],
)
def test_operators_state_their_limit(step: tuple[Any, ...], largest: float | None) -> None:
    student, nodes = graph_of(step)
    assert largest_values(student).get(nodes[-1]) == largest


def test_movement_poolings_and_quantizers_keep_it_and_layers_do_not() -> None:
    student, nodes = graph_of(
        (aten.relu6.default,),
        (aten.max_pool2d.default, [2, 2]),
        (quantizer(),),
        (aten.avg_pool2d.default, [2, 2]),
        (aten.relu.default,),
        (nn.Conv2d(3, 3, 1),),
    )
    found = largest_values(student)
    assert [found.get(node) for node in nodes] == [None, 6.0, 6.0, 6.0, 6.0, 6.0, None]


def test_a_limit_below_zero_is_not_that_of_padding_or_of_a_relu() -> None:
    below = (aten.clamp_max.default, -2.0)
    student, nodes = graph_of(below, (aten.constant_pad_nd.default, [1, 1]))
    assert largest_values(student)[nodes[-1]] == 0.0
    student, nodes = graph_of(below, (aten.relu.default,))
    assert largest_values(student)[nodes[-1]] == 0.0


def test_a_concatenation_takes_the_largest_and_needs_all() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    six, one = (graph.call_function(f, (x,)) for f in (aten.relu6.default, aten.sigmoid.default))
    known = graph.call_function(aten.cat.default, ([six, one], 1))
    unknown = graph.call_function(aten.cat.default, ([six, x], 1))
    graph.output((known, unknown))
    found = largest_values(fx.GraphModule(nn.Module(), graph))
    assert found[known] == 6.0
    assert unknown not in found


@pytest.mark.parametrize(
    ("step", "non_negative"),
    [
        ((aten.add.Tensor, 1), True),
        ((aten.add.Tensor, 0.0), True),
        ((aten.add.Tensor, -1), False),
        ((aten.add.Tensor, -0.5), False),
        ((aten.mul.Tensor, 2.0), True),
        ((aten.mul.Tensor, -2.0), False),
        ((aten.div.Tensor, 3.0), True),
        ((aten.div.Tensor, -3.0), False),
        ((aten.sub.Tensor, 1), False),
        ((aten.clamp.default, 0.0, 6.0), True),
        ((aten.clamp.default, -1.0, 6.0), False),
        ((aten.clamp.default, None, 6.0), False),
    ],
)
def test_a_negative_constant_makes_negative_values(
    step: tuple[Any, ...], non_negative: bool
) -> None:
    student, nodes = graph_of((aten.relu.default,), step)
    values = student(torch.tensor([-1.0, 0.0, 3.0, 8.0]))
    assert not non_negative or float(values.min()) >= 0
    found = non_negative_nodes(student.graph, input_is_non_negative=False)
    assert nodes[1] in found
    assert (nodes[2] in found) == non_negative


def test_a_difference_that_is_written_as_a_sum_may_be_negative() -> None:
    graph = fx.Graph()
    x = graph.call_function(aten.relu.default, (graph.placeholder("x"),))
    y = graph.call_function(aten.sigmoid.default, (x,))
    less = graph.call_function(aten.add.Tensor, (x, y), {"alpha": -1})
    more = graph.call_function(aten.add.Tensor, (x, y), {"alpha": 2})
    graph.output((less, more))
    assert non_negative_nodes(graph, input_is_non_negative=False) == {x, y, more}
