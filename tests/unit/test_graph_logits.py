"""Results that are logits in another shape are taken; what is none says what to return instead."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.small_networks import SHAPE, conv_bn, images, targets, with_statistics
from torch import Tensor, nn

from lrq_deploy.errors import UnsupportedNetworkError
from lrq_deploy.export.neutral import float_graph
from lrq_deploy.export.onnx_graph import float_onnx
from lrq_deploy.export.runtime.session import open_session
from lrq_deploy.graph.capture import capture, example_input
from lrq_deploy.task import Task

pytestmark = pytest.mark.unit

aten = torch.ops.aten


class Shaped(nn.Module):
    """A classifier that ends in a convolution over one place, in the shape that ``end`` gives."""

    def __init__(self, end: Callable[[Tensor], Any], classes: int = 5) -> None:
        super().__init__()
        self.body = conv_bn(3, 4)
        self.head = nn.Conv2d(4, classes, 1)
        self.end = end

    def forward(self, x: Tensor) -> Any:
        pooled = torch.relu(self.body(x)).mean((2, 3), keepdim=True)
        return self.end(self.head(pooled))


def _logits(network: Shaped, x: Tensor) -> Tensor:
    with torch.no_grad():
        pooled = torch.relu(network.body(x)).mean((2, 3), keepdim=True)
        result: Tensor = network.head(pooled).flatten(1)
    return result


def _check(network: Shaped, task: Task = "multiclass") -> list[Any]:
    """The graph and its ONNX form give ``[N, classes]``; the functions that the graph calls."""
    graph = capture(with_statistics(network), SHAPE, task=task)
    session = open_session(float_onnx(graph, SHAPE).SerializeToString())
    for count in (1, 3):
        x = images(count)
        torch.testing.assert_close(graph(x), _logits(network, x))
        torch.testing.assert_close(session.logits(x), _logits(network, x), rtol=1e-4, atol=1e-5)
    return targets(graph)


ROWS: dict[str, Callable[[Tensor], Any]] = {
    "map": lambda y: y,
    "column": lambda y: y.flatten(2),
    "softmax": lambda y: y.softmax(1),
    "beside-a-sequence": lambda y: (y.flatten(2).expand(-1, -1, 3), y),
}


@pytest.mark.parametrize("end", ROWS.values(), ids=ROWS)
def test_axes_of_one_place_are_dropped(end: Callable[[Tensor], Any]) -> None:
    called = _check(Shaped(end))
    # As where the network drops them itself: a linear layer, which runtimes compute in integers.
    assert called == targets(capture(with_statistics(Shaped(lambda y: y.flatten(1))), SHAPE))
    assert called[-1] is aten.linear.default


def test_a_table_goes_before_a_map_of_one_place() -> None:
    network = Shaped(lambda y: (y.flatten(1), y[:, :3]))
    assert capture(with_statistics(network), SHAPE)(images()).shape == (8, 5)


@pytest.mark.parametrize("batch", [2, 5])
def test_an_archive_with_a_static_batch_may_end_in_a_map(batch: int) -> None:
    network = with_statistics(Shaped(lambda y: y))
    program = torch.export.export(network, (example_input(SHAPE, batch),))
    x = images(3)
    torch.testing.assert_close(capture(program, SHAPE)(x), _logits(network, x))


SINGLE: dict[str, Callable[[Tensor], Tensor]] = {
    "squeezed": lambda y: y.flatten(1).squeeze(1),
    "flat": lambda y: y.flatten(),
    "indexed": lambda y: y[:, 0, 0, 0],
    "sigmoid": lambda y: y.flatten(1).squeeze(1).sigmoid(),
    "sigmoid-first": lambda y: y.sigmoid().flatten(),
    "map": lambda y: y,
}


@pytest.mark.parametrize("end", SINGLE.values(), ids=SINGLE)
def test_a_single_yes_or_no_may_come_without_its_axis(end: Callable[[Tensor], Tensor]) -> None:
    called = _check(Shaped(end, classes=1), "multilabel")
    assert called[-1] is aten.linear.default or end is SINGLE["indexed"]


def test_one_of_several_may_be_the_single_yes_or_no() -> None:
    network = with_statistics(Shaped(lambda y: y[:, 2, 0, 0]))
    x = images(3)
    graph = capture(network, SHAPE, task="multilabel")
    torch.testing.assert_close(graph(x), _logits(network, x)[:, 2:3])
    assert float_graph(graph, SHAPE).graph.outputs[0].shape is not None


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "single": (lambda y: y[:, 0, 0, 0], r"at least 2 classes.*1 logit.*--task multilabel"),
    "answers": (lambda y: y.flatten(1).argmax(1), r"int64 \(2,\).*the logits, not their argmax"),
    "labels": (lambda y: y.flatten(1) > 0, r"bool \(2, 5\).*the logits, not their argmax"),
    "pair": (
        lambda y: torch.stack([y.flatten(1)] * 2, 1),
        r"float32 \(2, 2, 5\).*one row of logits per image, such as y\[:, 0\] or y\.mean\(1\)",
    ),
    "large-map": (
        lambda y: y.expand(-1, -1, 4, 4),
        r"float32 \(2, 5, 4, 4\).*such as y\.mean\(\(2, 3\)\).*segmentation",
    ),
    "loss": (lambda y: y.mean(), r"float32 \(\) .*not a loss or a sum"),
    "sum": (lambda y: y.flatten(1).sum(0), r"float32 \(5,\) .*not a loss or a sum"),
}


@pytest.mark.parametrize(("end", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_row_of_logits_says_what_to_return(
    end: Callable[[Tensor], Tensor], said: str
) -> None:
    with pytest.raises(UnsupportedNetworkError, match=said):
        capture(with_statistics(Shaped(end)), SHAPE)


def test_a_sum_over_images_is_no_single_yes_or_no() -> None:
    network = Shaped(lambda y: y.flatten(1).sum(0))
    with pytest.raises(UnsupportedNetworkError, match="not a loss or a sum"):
        capture(with_statistics(network), SHAPE, task="multilabel")


def _masked(value: float) -> Shaped:
    absent = torch.tensor([False, False, True, False, True])
    return with_statistics(Shaped(lambda y: y.flatten(1).masked_fill(absent, value)))


@pytest.mark.parametrize("value", [float("-inf"), float("inf")])
def test_a_class_without_finite_logits_is_refused_by_its_number(value: float) -> None:
    said = rf"{value} for class 2 \(counted from 0\) and 1 more"
    with pytest.raises(UnsupportedNetworkError, match=said) as caught:
        capture(_masked(value), SHAPE)
    assert "large finite number such as -1e4" in caught.value.remedy
    # What the remedy says is taken.
    assert float(capture(_masked(-1e4), SHAPE)(images())[0, 2]) == -1e4


def test_what_is_not_finite_for_one_image_or_every_class_is_left_to_the_stages() -> None:
    x = example_input(SHAPE, 3)
    network = with_statistics(Shaped(lambda y: y.flatten(1)))
    low, high = _logits(network, x)[:, 0].aminmax()
    middle = float(low + high) / 2

    def one(y: Tensor) -> Tensor:
        rows = y.flatten(1)
        return torch.where(rows[:, :1] > middle, rows / 0, rows)

    for end in (one, lambda y: y.flatten(1) / 0):
        graph = capture(with_statistics(Shaped(end)), SHAPE)
        assert not bool(graph(x).isfinite().all())
