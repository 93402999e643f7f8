"""Segments of a student: they chain to the whole, and shortcuts stay inside of them."""

import pytest
import torch
from support.small_networks import ALL, Residual, calibrated, conv_bn, images, only
from torch import Tensor, nn

from lrq_deploy.student.layers import QuantizedLayer
from lrq_deploy.student.segments import Segment, segment_graph, segments_of

pytestmark = pytest.mark.unit


def layer_names(student: nn.Module, segment: Segment) -> list[str]:
    graph = segment_graph(student, segment)  # type: ignore[arg-type]
    return [
        str(node.target)
        for node in graph.graph.nodes
        if node.op == "call_module"
        and isinstance(student.get_submodule(str(node.target)), QuantizedLayer)
    ]


@pytest.mark.parametrize("name", ALL)
def test_segments_in_a_row_are_the_student(name: str) -> None:
    student = calibrated(ALL[name]())
    segments = segments_of(student)
    with torch.no_grad():
        x = images(4)
        for segment in segments:
            x = segment_graph(student, segment)(x)
        assert torch.equal(x, student(images(4)))


@pytest.mark.parametrize("name", ALL)
def test_every_layer_is_in_exactly_one_segment(name: str) -> None:
    student = calibrated(ALL[name]())
    segments = segments_of(student)
    found = [layer for segment in segments for layer in layer_names(student, segment)]
    every = [n for n, m in student.named_modules() if isinstance(m, QuantizedLayer)]
    assert sorted(found) == sorted(every)
    assert all(layer_names(student, segment) for segment in segments)
    assert segments[0].start is None
    assert [s.start for s in segments[1:]] == [s.end for s in segments[:-1]]


def test_a_residual_block_is_one_segment() -> None:
    student = calibrated(Residual())
    sizes = [len(layer_names(student, segment)) for segment in segments_of(student)]
    assert sizes == [1, 2, 2, 1]


class Headless(nn.Module):
    """What follows the last layer belongs to its segment."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.last = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.last(torch.relu(self.stem(x)))).mean((2, 3))


def test_the_last_segment_ends_in_the_logits() -> None:
    student = calibrated(Headless())
    segments = segments_of(student)
    logits = only(student.graph.output_node().all_input_nodes)
    assert segments[-1].end == logits.name
    assert len(segments) == 2
