"""Normalisation: one form per function, constants folded, what cannot be normalised refused."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.small_networks import SHAPE, graph_of, images, targets, with_statistics
from torch import Tensor, nn

from lrq_deploy.errors import UnsupportedNetworkError
from lrq_deploy.export.bundle.graph_document import graph_from_json, graph_to_json
from lrq_deploy.graph.capture import capture
from lrq_deploy.graph.operators import RECTIFIERS, WEIGHTED, is_call, is_movement, tensor_inputs

pytestmark = pytest.mark.unit

aten = torch.ops.aten


class Head(nn.Module):
    """Any body, then the mean of each channel."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(x).mean((2, 3))
        return result


def test_in_place_and_functional_forms_become_the_same_graph() -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            y += 1
            return F.relu_(y).mean((2, 3))

    class Functional(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x * 2 + 1).mean((2, 3))

    assert targets(graph_of(InPlace())) == targets(graph_of(Functional()))


def test_a_tensor_that_is_filled_later_starts_with_zeros() -> None:
    class Filled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            kept = torch.empty(x.shape[0], 6, *x.shape[2:])
            kept[:, :3] = F.relu(x)
            kept[:, 3:] = F.relu(-x)
            more = torch.empty_like(x)
            more[:, :2] = x[:, 1:]
            more[:, 2:] = x[:, :1]
            return torch.cat([kept, more], 1).mean((2, 3))

    graph = graph_of(Filled())
    assert not any("empty" in str(target) for target in targets(graph))
    torch.testing.assert_close(graph(images(4)), Filled()(images(4)))
    assert graph_from_json(graph_to_json(graph.graph), graph)


def test_operators_with_two_names_have_the_usual_one() -> None:
    class Aliases(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.concat([torch.multiply(x, x), torch.special.expit(torch.clip(x, 0, 1))], 1)
            z = torch.concatenate([torch.divide(x, 2), torch.true_divide(x, 4)], 1)
            return torch.subtract(y, z).mean((2, 3))

    class Usual(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.cat([x * x, torch.sigmoid(torch.clamp(x, 0, 1))], 1)
            z = torch.cat([x / 2, x / 4], 1)
            return (y - z).mean((2, 3))

    assert targets(graph_of(Aliases())) == targets(graph_of(Usual()))


@pytest.mark.parametrize(
    ("body", "limits"),
    [
        (lambda x: x.clamp(0, 6.0), [0.0, 6.0]),
        (lambda x: x.clamp(-1.0, 1), [-1.0, 1.0]),
        (lambda x: torch.clip(x, max=6), [None, 6.0]),
        (lambda x: x.clamp_min(0), [0.0]),
        (lambda x: F.hardtanh(x, -2, 2.5), [-2.0, 2.5]),
        (lambda x: F.hardtanh(x), [-1.0, 1.0]),
    ],
)
def test_limits_of_floats_are_floats(
    body: Callable[[Tensor], Tensor], limits: list[float | None]
) -> None:
    class Clipped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return body(x).mean((2, 3))

    graph = graph_of(Clipped())
    [clip] = [node for node in graph.graph.nodes if is_call(node, RECTIFIERS)]
    found = [*clip.args[1:], *clip.kwargs.values()]
    assert [(n, type(n)) for n in found] == [(n, type(n)) for n in limits]
    torch.testing.assert_close(graph(images()), Clipped()(images()))


def test_limits_of_integers_stay() -> None:
    class Positions(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.argmax(1).clamp(0, 1) * x[:, 0]).mean(2)

    [clip] = [n for n in graph_of(Positions()).graph.nodes if is_call(n, RECTIFIERS)]
    assert [type(n) for n in clip.args[1:]] == [int, int]


def test_what_does_nothing_is_gone() -> None:
    class Idle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = F.dropout2d(F.dropout(x, 0.5, self.training), 0.5, self.training)
            x = x[:, :, :].contiguous().detach().clone().float()
            return x.mean((2, 3))

    assert targets(graph_of(Idle())) == [aten.mean.dim]


@settings(max_examples=8)
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.sampled_from(["same", "valid"]),
)
def test_named_padding_is_stated(
    kernel: tuple[int, int], dilation: tuple[int, int], padding: str
) -> None:
    module = with_statistics(Head(nn.Conv2d(3, 4, kernel, padding=padding, dilation=dilation)))
    graph = capture(module, SHAPE)
    called = targets(graph)
    assert aten.conv2d.default in called
    assert aten.conv2d.padding not in called
    odd = any(d * (k - 1) % 2 for d, k in zip(dilation, kernel, strict=True))
    assert (aten.constant_pad_nd.default in called) == (odd and padding == "same")
    torch.testing.assert_close(graph(images()), module(images()))


def test_weights_computed_from_constants_are_stored() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            weight = F.normalize(self.weight.flatten(1)).reshape(self.weight.shape)
            mask = torch.arange(3) > 0
            return F.conv2d(x, weight * mask[:, None, None], self.bias)

    module = with_statistics(Head(Standardised(3, 4, 3)))
    graph = capture(module, SHAPE)
    assert targets(graph) == [aten.conv2d.default, aten.mean.dim]
    torch.testing.assert_close(graph(images()), module(images()))


def test_products_with_a_stored_matrix_are_linear_layers() -> None:
    class Products(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Parameter(torch.zeros(3, 4))
            self.second = nn.Parameter(torch.zeros(5, 4))
            self.bias = nn.Parameter(torch.zeros(5))

        def forward(self, x: Tensor) -> Tensor:
            y = torch.mm(x.mean((2, 3)), self.first)
            return torch.addmm(self.bias, y @ torch.eye(4), self.second.t())

    module = with_statistics(Products())
    graph = capture(module, SHAPE)
    assert targets(graph) == [aten.mean.dim, *[aten.linear.default] * 3]
    torch.testing.assert_close(graph(images()), module(images()))


def test_a_product_of_two_computed_tensors_stays() -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.flatten(2)
            return (y @ y.transpose(1, 2)).mean(2)

    graph = graph_of(Attention())
    assert not any(is_call(n, WEIGHTED) for n in graph.graph.nodes)


def test_computed_weights_are_refused() -> None:
    class Dynamic(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.mean((2, 3))
            return F.linear(y, y[:2])

    with pytest.raises(UnsupportedNetworkError, match="weights computed from the image at linear"):
        graph_of(Dynamic())


class Flat(nn.Module):
    """A layer over rows of pixels."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(x.flatten(2)).mean(2)
        return result


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_convolution_over_rows_is_one_over_a_column(bias: bool, decomposed: bool) -> None:
    module = with_statistics(Flat(nn.Conv1d(3, 6, 3, 2, 2, dilation=2, groups=3, bias=bias)))
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(module, (images(2),), dynamic_shapes=({0: batch},))
    graph = capture(program.run_decompositions() if decomposed else module, SHAPE)
    (layer,) = [n for n in graph.graph.nodes if n.target is aten.conv2d.default]
    assert layer.meta["layer"] == "body"
    torch.testing.assert_close(graph(images(5)), module(images(5)))


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel", [3, 4])
def test_the_padding_of_a_convolution_over_rows_may_have_a_name(padding: str, kernel: int) -> None:
    module = with_statistics(Flat(nn.Conv1d(3, 6, kernel, padding=padding)))
    graph = capture(module, SHAPE)
    torch.testing.assert_close(graph(images(5)), module(images(5)))


def test_other_one_dimensional_layers_are_refused_with_a_way_out() -> None:
    with pytest.raises(UnsupportedNetworkError, match=r"two-dimensional.*conv.*1d.*Conv2d"):
        graph_of(Flat(nn.ConvTranspose1d(3, 3, 3)))


def test_a_random_slope_is_the_middle_one() -> None:
    module = Flat(nn.RReLU(0.1, 0.4)).eval()
    graph = capture(module, SHAPE)
    (call,) = [n for n in graph.graph.nodes if n.target is aten.leaky_relu.default]
    assert call.args[1] == 0.25
    torch.testing.assert_close(graph(images(5)), module(images(5)))


def test_batch_norm_without_statistics_is_refused() -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(UnsupportedNetworkError, match="track_running_stats"):
        graph_of(Head(body))


def test_batch_norm_left_in_training_mode_is_refused() -> None:
    module = Head(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    program = torch.export.export(module.train(), (images(2),))
    with pytest.raises(UnsupportedNetworkError, match="eval"):
        capture(program, SHAPE)


def test_layers_carry_the_names_of_the_network() -> None:
    graph = graph_of(Head(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))))
    names = [n.meta["layer"] for n in graph.graph.nodes if "layer" in n.meta and n.op != "get_attr"]
    assert names == ["body.0", "body.1", "body.2"]
    assert sorted(n for n, _ in graph.named_buffers()) == [
        "body.1.running_mean",
        "body.1.running_var",
    ]


@pytest.mark.parametrize(
    ("pad", "moves"),
    [
        (lambda x: F.pad(x, (1, 1)), True),
        (lambda x: F.pad(x, (1, 1), value=0.0), True),
        (lambda x: F.pad(x, (1, 1), value=-1.0), False),
        (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), True),
        (lambda x: F.adaptive_max_pool2d(x, 2), True),
        (lambda x: x.max(2, keepdim=True)[0], True),
        (lambda x: x.max(2, keepdim=True)[1].float() + x, False),
        (lambda x: x.split(2, 1)[0], True),
        (lambda x: F.interpolate(x, scale_factor=2.0), True),
        (lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"), False),
    ],
)
def test_only_what_keeps_the_values_is_movement(
    pad: Callable[[Tensor], Tensor], moves: bool
) -> None:
    class Moving(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return pad(x).mean((2, 3))

    mean = next(n for n in graph_of(Moving()).graph.nodes if n.target is aten.mean.dim)
    assert is_movement(tensor_inputs(mean)[0]) is moves


@pytest.mark.parametrize("stop", [2, 3])
def test_writes_into_a_slice_are_read_as_what_they_write(stop: int) -> None:
    class Writing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(x)[:, :stop]
            y += x[:, :stop] * 2
            return y.mean((2, 3))

    module = Writing()
    graph = capture(module, SHAPE)
    assert aten.slice_scatter.default not in targets(graph)
    assert targets(graph).count(aten.slice.Tensor) == (0 if stop == 3 else 2)
    torch.testing.assert_close(graph(images()), module(images()))


@pytest.mark.parametrize(("channels", "axis"), [(8, (1,)), (4, ())])
def test_a_gated_linear_unit_is_a_product_with_a_sigmoid(
    channels: int, axis: tuple[int, ...]
) -> None:
    module = with_statistics(Head(nn.Sequential(nn.Conv2d(3, channels, 3), nn.GLU(*axis))))
    graph = capture(module, SHAPE)
    assert aten.glu.default not in targets(graph)
    assert {aten.sigmoid.default, aten.mul.Tensor} <= set(targets(graph))
    torch.testing.assert_close(graph(images()), module(images()))


def test_squeezing_keeps_a_batch_of_one_image() -> None:
    module = with_statistics(Head(nn.Conv2d(3, 4, 3)))
    squeezed = nn.Sequential(module.body, nn.AdaptiveAvgPool2d(1), _Squeezing(), nn.Linear(4, 5))
    graph = capture(with_statistics(squeezed), SHAPE)
    assert graph(images(1)).shape == (1, 5)
    torch.testing.assert_close(graph(images(3)), squeezed(images(3)))


class _Squeezing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze()


def test_attention_over_a_sequence_has_one_head() -> None:
    class Attending(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            rows = x.flatten(2)
            return F.scaled_dot_product_attention(rows, rows * 2, rows + 1).mean(2)

    graph = graph_of(Attending())
    attention = next(n for n in graph.graph.nodes if "scaled_dot" in str(n.target))
    assert [n.target for n in attention.args] == [aten.unsqueeze.default] * 3
    torch.testing.assert_close(graph(images()), Attending()(images()))


@pytest.mark.parametrize("mask", ["none", "rows", "heads", "all"])
@pytest.mark.parametrize("axes", [3, 5, 6])
def test_attention_over_any_axes_has_four(axes: int, mask: str) -> None:
    class Attending(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            rows = x.view(len(x), *[1] * (axes - 5), 3, 2, 6, 12) if axes > 4 else x.flatten(2)
            length = rows.shape[-2]
            wave = torch.arange(float(length)).sin()
            where = {
                "none": None,
                "rows": wave.expand(length, length),
                "heads": wave.expand(1, length, length),
                "all": rows[..., :1] * wave,
            }[mask]
            return F.scaled_dot_product_attention(rows, rows * 2, rows + 1, where).flatten(1)

    graph = graph_of(Attending())
    reshaped = {aten.unsqueeze.default, aten.flatten.using_ints}
    attention = next(n for n in graph.graph.nodes if "scaled_dot" in str(n.target))
    assert {n.target for n in attention.args[:3]} <= reshaped
    for batch in (1, 3):
        torch.testing.assert_close(graph(images(batch)), Attending()(images(batch)))
