"""Products with a stored matrix are linear layers, also where core ATen copies the matrix."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.small_networks import SHAPE, images, targets, with_statistics
from torch import Tensor, fx, nn

from lrq_deploy.graph.capture import capture
from lrq_deploy.graph.operators import WEIGHTED, is_call

pytestmark = pytest.mark.unit

aten = torch.ops.aten


class Tokens(nn.Module):
    """Linear layers over maps ``[N, H, W, C]`` and over rows ``[N, L, C]``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.wide = nn.Linear(6, 10)
        self.narrow = nn.Linear(10, 8, bias=False)
        self.again = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.wide(self.stem(x).permute(0, 2, 3, 1)))
        x = self.narrow(x.flatten(1, 2)).transpose(1, 2)
        result: Tensor = self.head(self.again(x.transpose(1, 2)).mean(1))
        return result


def core_graph(module: nn.Module, batch: int | None = None) -> fx.GraphModule:
    """Of a core ATen archive, for any batch or one that states a number."""
    shapes = ({0: torch.export.Dim("n", min=1)},) if batch is None else None
    program = torch.export.export(module, (images(batch or 2),), dynamic_shapes=shapes)
    return capture(program.run_decompositions(), SHAPE)


@pytest.mark.parametrize("batch", [None, 2, 3])
def test_a_core_archive_has_the_layers_of_the_network(batch: int | None) -> None:
    module = with_statistics(Tokens())
    graph = core_graph(module, batch)
    for count in (1, 5):
        torch.testing.assert_close(graph(images(count)), module(images(count)))
    layers = [node.meta["layer"] for node in graph.graph.nodes if is_call(node, WEIGHTED)]
    assert layers == ["stem", "wide", "narrow", "again", "head"]
    others = {aten.bmm.default, aten.mm.default, aten.addmm.default, aten.add.Tensor}
    assert others.isdisjoint(targets(graph))
    assert aten.expand.default not in targets(graph)


class Multiplying(nn.Module):
    """Rows of pixels ``[N, L, 3]`` and what ``product`` makes of them and a stored tensor."""

    def __init__(self, product: Callable[[Tensor, Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.product = product
        self.stored = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x.flatten(2).transpose(1, 2), self.stored).mean(1)


@pytest.mark.parametrize(
    ("product", "shape"),
    [
        (lambda x, w: torch.bmm(x, w.expand(x.shape[0], -1, -1)), (3, 4)),
        (lambda x, w: torch.bmm(x, w.t().unsqueeze(0).expand(x.shape[0], -1, -1)), (4, 3)),
        (lambda x, w: torch.bmm(x, w.expand(x.shape[0], -1, -1)) + w[0], (3, 4)),
        (
            lambda x, w: (
                w[1] + torch.bmm(x, w.expand(x.shape[0], -1, -1)).reshape(-1, 12, 12, 4)[:, 1]
            ),
            (3, 4),
        ),
    ],
    ids=["expanded", "transposed", "with a bias", "with a bias behind a slice"],
)
def test_a_copy_of_the_matrix_for_each_image_is_one_layer(
    product: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...]
) -> None:
    module = with_statistics(Multiplying(product, *shape))
    graph = capture(module, SHAPE)
    assert targets(graph).count(aten.linear.default) == 1
    assert aten.bmm.default not in targets(graph)
    torch.testing.assert_close(graph(images(5)), module(images(5)))


def _by_halves(x: Tensor, w: Tensor) -> Tensor:
    copies = w.expand(x.shape[0], -1, -1, -1).reshape(-1, 3, 4)
    return torch.bmm(x.reshape(-1, 72, 3), copies).reshape(-1, 144, 4)


@pytest.mark.parametrize(
    ("product", "shape"),
    [
        (_by_halves, (2, 3, 4)),
        (lambda x, w: torch.bmm(w.expand(x.shape[0], -1, -1), x), (4, 144)),
    ],
    ids=["a matrix for each half", "the matrix in front"],
)
def test_other_products_stay(
    product: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...]
) -> None:
    module = with_statistics(Multiplying(product, *shape))
    graph = capture(module, SHAPE)
    assert aten.bmm.default in targets(graph)
    torch.testing.assert_close(graph(images(5)), module(images(5)))
