"""Movements of hand-written networks: captured, in integers, equal in every form of the student."""

import math
from collections.abc import Callable
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from support.small_networks import (
    CENTRED,
    SHAPE,
    calibrated,
    conv_bn,
    graph_of,
    images,
    targets,
    with_statistics,
)
from torch import Tensor, nn

from lrq_deploy.export.measures.coverage import audit
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.export.parity.compare import compare
from lrq_deploy.export.parity.reference import reference_logits
from lrq_deploy.export.parity.simulation import exact_logits
from lrq_deploy.export.runtime.session import open_session
from lrq_deploy.graph.operators import CONCATENATIONS, is_call, is_movement
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.freeze import freeze
from lrq_deploy.student.frozen import QuantizedModel

pytestmark = pytest.mark.unit

aten = torch.ops.aten

SCHEME = Scheme(4, 8)

Movement = Callable[[Tensor], Tensor]


def _halves(x: Tensor) -> Tensor:
    left, right = torch.tensor_split(x, 2, dim=1)
    return torch.hstack([right, left])


def _rows(x: Tensor) -> Tensor:
    return torch.stack([*x.unbind(2)[::-1]], dim=2)


def _chunks(x: Tensor) -> Tensor:
    top, low = x.split([5, 7], dim=2)
    first, *rest = torch.cat([low, top], 2).chunk(3, dim=3)
    return torch.cat([*rest, first], 3)


def _shuffled(x: Tensor) -> Tensor:
    order = torch.tensor([1, 3, 0, 2])
    return torch.index_select(x[:, [2, 0, 1, -1]][..., [0, 0, 3, 5, 7, 9]], 1, order)


def _masked(x: Tensor) -> Tensor:
    table = x[:, torch.tensor([[0, 2], [1, 3]])].flatten(1, 2)
    return table[:, :, torch.arange(12) % 3 > 0]


def _bordered(sides: list[int], kernel: int | tuple[int, int] = 3) -> Movement:
    return lambda x: F.max_pool2d(F.pad(x, sides, value=-math.inf), kernel, 2)


def _framed(x: Tensor) -> Tensor:
    return F.pad(x, (1, 1, 1, 1))


GROUPS: dict[str, Movement] = {
    "nearest": lambda x: F.interpolate(_framed(x), size=(16, 32)),
    "nearest by a whole factor and another": lambda x: F.interpolate(_framed(x), size=(14, 46)),
    "nearest by factors": lambda x: F.interpolate(x, scale_factor=(1.7, 0.7)),
    "nearest by whole factors": lambda x: F.interpolate(x, scale_factor=(2.0, 3.0)),
    "nearest exact": lambda x: F.interpolate(x, size=(20, 7), mode="nearest-exact"),
    "nearest of rows": lambda x: F.interpolate(x.flatten(2), 180).unflatten(2, (12, 15)),
    "border of minus infinity": _bordered([0, 1, 2, 1]),
    "index": _shuffled,
    "index by a mask and by a table": _masked,
    "flip": lambda x: x.flip(-1, 2).fliplr(),
    "roll": lambda x: torch.roll(x, (2, -1), (2, 3)).roll(1, 1),
    "tile": lambda x: x.tile(1, 2, 1, 1)[:, 2:6],
    "repeat": lambda x: x.repeat(1, 1, 2, 1)[:, :, 5:].repeat_interleave(2, dim=3),
    "expand": lambda x: F.max_pool2d(x, 12).expand(-1, -1, 3, 3),
    "stack": lambda x: torch.stack([x, x.mT], dim=2).flatten(1, 2)[:, 1:5],
    "unbind": _rows,
    "split": _chunks,
    "tensor_split": _halves,
    "axes": lambda x: x.movedim(1, 3).swapaxes(1, 2).narrow(1, 1, 8).permute(0, 3, 1, 2),
}


class _Moving(nn.Module):
    """A movement between two layers."""

    def __init__(self, move: Movement) -> None:
        super().__init__()
        self.move = move
        self.stem = conv_bn(3, 4)
        self.body = conv_bn(4, 6)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.move(F.relu(self.stem(x)))
        x = F.relu(self.body(x))
        result: Tensor = self.head(x.mean((2, 3)))
        return result


@cache
def _student(name: str) -> QuantizedModel:
    graph, table = freeze(calibrated(_Moving(GROUPS.get(name, lambda x: x)), SCHEME))
    return QuantizedModel(graph, table, SCHEME, SHAPE, 5, CENTRED, name, "")


@pytest.mark.parametrize("name", GROUPS)
def test_a_movement_is_known_and_computes_the_same(name: str) -> None:
    module = with_statistics(_Moving(GROUPS[name]))
    graph = graph_of(module)
    x = images(3)
    torch.testing.assert_close(graph(x), module(x))
    pending = list(next(n for n in graph.graph.nodes if is_call(n, {aten.relu.default})).users)
    while pending:
        node = pending.pop()
        if not is_call(node, {aten.conv2d.default}):
            assert is_movement(node) or is_call(node, CONCATENATIONS), node.target
            pending.extend(node.users)


@pytest.mark.parametrize("name", GROUPS)
def test_a_movement_runs_in_integers_in_both_dialects(name: str) -> None:
    model = _student(name)
    assert len(model.quantizers()) == len(_student("nothing moves").quantizers())
    x = images(16, seed=7)
    exact = exact_logits(model, x)
    by_numpy = torch.from_numpy(reference_logits(model, x[:4]))
    assert compare(exact[:4], by_numpy).same_rows == 1
    graph = to_onnx(model).SerializeToString()
    assert compare(exact, open_session(graph).logits(x)).same_rows == 1
    coverage = audit(model, graph)
    assert (coverage.share, set(coverage.float_operators) - {"Expand"}) == (1, set())
    other = to_onnx(model, "tensorrt").SerializeToString()
    assert compare(exact, open_session(other, level="off").logits(x)).same_rows == 1


@pytest.mark.parametrize(
    ("size", "selected"), [((24, 12), 0), ((36, 36), 0), ((24, 18), 2), ((12, 15), 1), ((6, 12), 1)]
)
def test_a_nearest_resize_by_whole_factors_is_one_operator(
    size: tuple[int, int], selected: int
) -> None:
    module = with_statistics(_Moving(lambda x: F.interpolate(x, size=size)))
    graph = graph_of(module)
    found = targets(graph)
    assert found.count(aten.index_select.default) == selected
    assert found.count(aten.upsample_nearest2d.vec) == (not selected)
    torch.testing.assert_close(graph(images(3)), module(images(3)))


@pytest.mark.parametrize("sides", [[0, 1, 0, 1], [2, 2, 1, 0], [1, 2, 3, 3]])
def test_a_border_of_minus_infinity_repeats_the_edge_under_a_maximum(sides: list[int]) -> None:
    border = _bordered(sides, (4, 3))
    module = with_statistics(_Moving(lambda x: border(x - 0.5)))
    graph = graph_of(module)
    assert aten.replication_pad2d.default in targets(graph)
    torch.testing.assert_close(graph(images(3)), module(images(3)))


@pytest.mark.parametrize(
    ("activation", "fill", "repeats"),
    [(nn.Identity(), -1e4, True), (nn.ReLU(), -1.0, True), (nn.Identity(), -1.0, False)],
)
def test_a_border_below_all_values_is_one_of_minus_infinity(
    activation: nn.Module, fill: float, repeats: bool
) -> None:
    def bordered(x: Tensor) -> Tensor:
        return F.max_pool2d(F.pad(activation(x - 2), [1, 1, 1, 1], value=fill), 3, 1)

    module = with_statistics(_Moving(bordered))
    graph = graph_of(module)
    assert (aten.replication_pad2d.default in targets(graph)) == repeats
    torch.testing.assert_close(graph(images(3)), module(images(3)))


@pytest.mark.parametrize(
    ("sides", "padding", "dilation"),
    [([0, 3, 0, 0], 0, 1), ([1, 1, 1, 1], 0, 2), ([2, 2, 0, 0], 1, 1), ([-1, 1, 0, 0], 0, 1)],
)
def test_a_border_that_a_window_may_see_without_the_edge_stays(
    sides: list[int], padding: int, dilation: int
) -> None:
    def bordered(x: Tensor) -> Tensor:
        padded = F.pad(x, sides, value=-math.inf)
        return F.max_pool2d(padded, 3, 1, padding, dilation).clamp_min(-9.0)

    module = with_statistics(_Moving(bordered))
    graph = graph_of(module)
    assert aten.replication_pad2d.default not in targets(graph)
    torch.testing.assert_close(graph(images(3)), module(images(3)))


def test_a_movement_along_the_batch_is_left_alone() -> None:
    graph = graph_of(_Moving(lambda x: x.flip(0).flip(0)))
    assert targets(graph).count(aten.flip.default) == 2


def test_one_position_of_a_stored_index_drops_its_axis() -> None:
    module = with_statistics(_Moving(lambda x: x[:, :, torch.tensor(3)].unsqueeze(2)))
    graph = graph_of(module)
    assert aten.index.Tensor not in targets(graph)
    torch.testing.assert_close(graph(images(3)), module(images(3)))


def test_an_index_of_two_axes_is_a_float_operator_of_every_form() -> None:
    rows, columns = torch.tensor([[0], [5], [7]]), torch.tensor([2, 3, 4])
    graph, table = freeze(calibrated(_Moving(lambda x: x[:, :, rows, columns]), SCHEME))
    model = QuantizedModel(graph, table, SCHEME, SHAPE, 5, CENTRED, "two axes", "")
    x = images(16, seed=7)
    exact = exact_logits(model, x)
    assert compare(exact[:4], torch.from_numpy(reference_logits(model, x[:4]))).same_rows == 1
    assert compare(exact, open_session(to_onnx(model).SerializeToString()).logits(x)).same_rows == 1


def test_a_constant_beside_the_channels_has_integers_of_its_own() -> None:
    def beside(x: Tensor) -> Tensor:
        column = torch.linspace(-1, 1, 12).view(1, 1, 1, 12)
        return torch.cat([x[:, :3], column.expand(x.shape[0], 1, 12, 12)], 1)

    graph, table = freeze(calibrated(_Moving(beside), SCHEME))
    model = QuantizedModel(graph, table, SCHEME, SHAPE, 5, CENTRED, "coordinates", "")
    x = images(16, seed=7)
    exact = exact_logits(model, x)
    assert compare(exact[:4], torch.from_numpy(reference_logits(model, x[:4]))).same_rows == 1
    data = to_onnx(model).SerializeToString()
    assert compare(exact, open_session(data).logits(x)).same_rows == 1
    assert audit(model, data).fallbacks == ()
    assert any(entry.qmin < 0 for name, entry in table.entries.items() if "relu" in name)
