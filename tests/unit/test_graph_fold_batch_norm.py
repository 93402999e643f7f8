"""Folding: no BatchNorm is left and the float function stays."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.small_networks import (
    ALL,
    SHAPE,
    calibrated,
    graph_of,
    images,
    only,
    quantizers,
    targets,
)
from torch import Tensor, fx, nn

from lrq_deploy.errors import UnsupportedNetworkError
from lrq_deploy.graph.capture import capture
from lrq_deploy.graph.fold_batch_norm import fold_batch_norm
from lrq_deploy.scheme import Scheme

pytestmark = pytest.mark.unit

aten = torch.ops.aten


def folded(module: nn.Module) -> tuple[fx.GraphModule, list[object]]:
    """Folded graph, after checking that it computes the same, and its calls."""
    graph = graph_of(module)
    before = targets(graph)
    result = fold_batch_norm(graph)
    x = images()
    torch.testing.assert_close(result(x), graph(x), rtol=1e-4, atol=1e-5)
    assert targets(graph) == before
    assert aten.batch_norm.default not in targets(result)
    return result, targets(result)


class Body(nn.Module):
    """Modules named by keyword and a function that connects them."""

    def __init__(self, connect: Callable[[Any, Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.connect = connect

    def forward(self, x: Tensor) -> Tensor:
        return self.connect(self, x)


@pytest.mark.parametrize("name", ALL)
def test_small_networks_keep_their_function(name: str) -> None:
    folded(ALL[name]())


def test_convolution_and_batch_norm_become_one_layer() -> None:
    body = Body(
        lambda m, x: m.norm(m.conv(x)).mean((2, 3)),
        conv=nn.Conv2d(3, 4, 3),
        norm=nn.BatchNorm2d(4),
    )
    assert folded(body)[1] == [aten.conv2d.default, aten.mean.dim]


def test_batch_norm_without_affine_and_linear_with_batch_norm_1d() -> None:
    body = Body(
        lambda m, x: m.norm1(m.head(m.norm(m.conv(x)).mean((2, 3)))),
        conv=nn.Conv2d(3, 4, 3, bias=False),
        norm=nn.BatchNorm2d(4, affine=False),
        head=nn.Linear(4, 5, bias=False),
        norm1=nn.BatchNorm1d(5),
    )
    assert folded(body)[1] == [aten.conv2d.default, aten.mean.dim, aten.linear.default]


def test_two_readers_keep_the_convolution_and_make_the_norm_a_layer() -> None:
    def connect(m: nn.Module, x: Tensor) -> Tensor:
        y = m.get_submodule("conv")(x)
        result: Tensor = (y + m.get_submodule("norm")(y)).mean((2, 3))
        return result

    body = Body(connect, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4))
    graph, called = folded(body)
    assert called.count(aten.conv2d.default) == 2
    layer = [n for n in graph.graph.nodes if n.target is aten.conv2d.default][1]
    assert layer.args[6] == 4
    assert layer.meta["layer"] == "norm"


def test_a_shared_convolution_gets_a_weight_for_each_norm() -> None:
    body = Body(
        lambda m, x: (m.first(m.conv(x)) + F.relu(m.second(m.conv(x)))).mean((2, 3)),
        conv=nn.Conv2d(3, 4, 3),
        first=nn.BatchNorm2d(4),
        second=nn.BatchNorm2d(4),
    )
    graph, _ = folded(body)
    weights = {n.args[1].target for n in graph.graph.nodes if n.target is aten.conv2d.default}
    assert len(weights) == 2


def test_a_reused_block_is_folded_at_every_call() -> None:
    body = Body(
        lambda m, x: m.block(F.relu(m.block(x))).mean((2, 3)),
        block=nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)),
    )
    assert folded(body)[1].count(aten.conv2d.default) == 2


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_scale_the_right_axis(groups: int) -> None:
    body = Body(
        lambda m, x: m.norm(m.up(m.stem(x))).mean((2, 3)),
        stem=nn.Conv2d(3, 4, 3),
        up=nn.ConvTranspose2d(4, 6, 3, 2, groups=groups),
        norm=nn.BatchNorm2d(6),
    )
    assert aten.conv_transpose2d.input in folded(body)[1]


def test_norms_in_front_of_convolutions_become_depthwise_layers() -> None:
    body = Body(
        lambda m, x: m.conv(F.relu(m.norm(x))).mean((2, 3)),
        norm=nn.BatchNorm2d(3),
        conv=nn.Conv2d(3, 4, 3),
    )
    graph, called = folded(body)
    assert called[:2] == [aten.conv2d.default, aten.relu.default]
    first = next(n for n in graph.graph.nodes if n.target is aten.conv2d.default)
    assert first.args[6] == 3


def test_two_norms_in_a_row_become_one_layer() -> None:
    body = Body(
        lambda m, x: m.b(m.a(F.relu(x))).mean((2, 3)), a=nn.BatchNorm2d(3), b=nn.BatchNorm2d(3)
    )
    assert folded(body)[1].count(aten.conv2d.default) == 1


def test_norm_of_flat_features_and_of_sequences() -> None:
    body = Body(
        lambda m, x: m.flat(x.mean((2, 3))) + m.rows(m.tokens(x.flatten(2))).mean(2),
        flat=nn.BatchNorm1d(3),
        rows=nn.BatchNorm1d(3),
        tokens=nn.Linear(144, 7),
    )
    graph, _ = folded(body)
    shapes = {
        n.meta.get("layer"): n.args[6] for n in graph.graph.nodes if n.target is aten.conv2d.default
    }
    assert shapes == {"flat": 3, "rows": 3}


def test_norm_over_volumes_is_refused() -> None:
    body = Body(lambda m, x: m.norm(x[:, :, None]).mean((2, 3, 4)), norm=nn.BatchNorm3d(3))
    graph = graph_of(body)
    with pytest.raises(UnsupportedNetworkError, match="2 to 4 dimensions"):
        fold_batch_norm(graph)


def test_folding_is_the_published_formula() -> None:
    conv, norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=0.1)
    body = Body(lambda m, x: m.norm(m.conv(x)).mean((2, 3)), conv=conv, norm=norm)
    graph, _ = folded(body)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert conv.bias is not None
    gain = norm.weight / (norm.running_var + 0.1).sqrt()
    node = only(n for n in graph.graph.nodes if n.target is aten.conv2d.default)
    weight, bias = (getattr(graph, n.target) for n in node.args[1:3])
    torch.testing.assert_close(weight, conv.weight * gain.reshape(-1, 1, 1, 1))
    torch.testing.assert_close(bias, (conv.bias - norm.running_mean) * gain + norm.bias)
    assert SHAPE[0] == weight.shape[1]


def pooled_twice(self: Any, x: Tensor) -> Tensor:
    x = torch.relu(self.conv(x))
    both = torch.cat([F.adaptive_max_pool2d(x, 1), F.adaptive_avg_pool2d(x, 1)], 1)
    logits: Tensor = self.head(self.norm(both.flatten(1)))
    return logits


def test_concatenated_vectors_are_normalised_part_by_part() -> None:
    """fastai's head: maxima and means differ in size, and would share one quantizer."""
    body = Body(
        pooled_twice, conv=nn.Conv2d(3, 8, 3), norm=nn.BatchNorm1d(16), head=nn.Linear(16, 5)
    )
    result, calls = folded(body)
    assert calls.count(aten.conv2d.default) == 3
    norm = only(m for m in [body.norm] if isinstance(m, nn.BatchNorm1d))
    biases = [n for n in result.graph.nodes if n.op == "get_attr" and "bias" in str(n.target)]
    stored = [getattr(result, str(n.target)) for n in biases if hasattr(result, str(n.target))]
    halves = [value for value in stored if value.numel() == norm.num_features // 2]
    assert len(halves) == 2
    student = calibrated(body, Scheme(8, 8, 8))
    scales = {name: float(q.scale.detach()) for name, q in quantizers(student).items()}
    (mean,) = (s for n, s in scales.items() if "avg_pool" in n or "mean" in n)
    assert mean < 0.8 * scales["relu"]


@pytest.mark.parametrize("concatenate", ["maps", "read twice", "below each other"])
def test_other_concatenations_have_one_layer_behind_them(concatenate: str) -> None:
    def connect(self: Any, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        pooled = x.amax((2, 3), keepdim=True), x.mean((2, 3), keepdim=True)
        both = torch.cat([x, x.sigmoid()] if concatenate == "maps" else pooled, 1)
        if concatenate == "below each other":
            both = torch.cat([both, both * 2], 2)
        normed = self.norm(both).mean((2, 3))
        if concatenate == "read twice":
            normed = normed + both.mean((2, 3))
        logits: Tensor = self.head(normed)
        return logits

    parts = {"conv": nn.Conv2d(3, 8, 3), "norm": nn.BatchNorm2d(16), "head": nn.Linear(16, 5)}
    _, calls = folded(Body(connect, **parts))
    assert calls.count(aten.conv2d.default) == 2


def test_a_channel_that_never_varied_has_no_gain() -> None:
    """As a pruned one of a pre-activation network: what is rounded of it would be enlarged."""
    norm = nn.BatchNorm2d(3)
    for tensor, values in (
        (norm.running_mean, (0.5, 0.0, 0.5)),
        (norm.running_var, (1e-12, 1e-12, 1.0)),
        (norm.weight, (2.0, 2.0, 2.0)),
        (norm.bias, (0.1, 0.2, 0.3)),
    ):
        assert tensor is not None
        tensor.data.copy_(torch.tensor(values))
    module = Body(lambda m, x: m.norm(x).mean((2, 3)), norm=norm).eval()
    graph = fold_batch_norm(capture(module, SHAPE))
    still = torch.tensor([0.5, 0.0, -0.5]).reshape(1, 3, 1, 1).expand(2, *SHAPE)
    torch.testing.assert_close(graph(still), module(still))
    rounded = still + 0.004
    assert graph(rounded)[:, 0].tolist() == pytest.approx([0.1, 0.1])
    torch.testing.assert_close(graph(rounded)[:, 1:], module(rounded)[:, 1:])
    assert (module(rounded)[:, 0] > 2).all()


def test_a_convolution_keeps_a_channel_that_never_varied() -> None:
    """Nothing is rounded between it and its BatchNorm."""
    norm = nn.BatchNorm2d(3).eval()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.fill_(0.5)
    norm.running_var.fill_(1e-12)
    module = Body(lambda m, x: m.norm(m.conv(x)).mean((2, 3)), conv=nn.Conv2d(3, 3, 1), norm=norm)
    graph = fold_batch_norm(capture(module.eval(), SHAPE))
    torch.testing.assert_close(graph(images()), module(images()), rtol=1e-4, atol=1e-3)
