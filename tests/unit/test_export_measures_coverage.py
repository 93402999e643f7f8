"""What multiplies by stored numbers counts, whether or not it was recognised as a layer."""

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.small_networks import CENTRED, SHAPE, calibrated
from torch import Tensor, nn

from lrq_deploy.export.measures.coverage import Coverage, audit
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.graph.strays import stray_products
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.freeze import freeze
from lrq_deploy.student.frozen import QuantizedModel

pytestmark = pytest.mark.unit

SCHEME = Scheme(8, 8)

Product = Callable[["Rows", Tensor], Tensor]


class Rows(nn.Module):
    """Rows ``[N, 100, 8]`` of a feature map, a product, and a head over their mean."""

    def __init__(self, product: Product) -> None:
        super().__init__()
        self.product = product
        self.stem = nn.Conv2d(3, 8, 3)
        self.square, self.mixer = nn.Parameter(torch.zeros(8, 8)), nn.Parameter(torch.zeros(6, 100))
        self.query, self.row = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.zeros(8, 2))
        self.recurrent = nn.LSTM(8, 4, batch_first=True)
        self.head = nn.LazyLinear(5)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.relu(self.stem(x)).flatten(2).transpose(1, 2)
        result: Tensor = self.head(self.product(self, rows).mean(1))
        return result


def quantized(product: Product) -> QuantizedModel:
    module = Rows(product)
    module(torch.zeros(1, *SHAPE))
    graph, table = freeze(calibrated(module, SCHEME))
    return QuantizedModel(graph, table, SCHEME, SHAPE, 5, CENTRED, "rows", "")


def audited(product: Product) -> Coverage:
    model = quantized(product)
    return audit(model, to_onnx(model).SerializeToString())


@pytest.mark.parametrize(
    ("product", "count"),
    [
        (lambda s, x: torch.einsum("nlc,cd->nld", x, s.square), 100 * 8 * 8),
        (lambda s, x: s.mixer @ x, 6 * 100 * 8),
        (lambda s, x: torch.bmm(s.mixer.expand(x.shape[0], -1, -1), x), 6 * 100 * 8),
        (lambda s, x: x * (x @ s.row[:, 0]).unsqueeze(2), 100 * 8),
        (lambda s, x: s.recurrent(x)[0], 100 * 4 * 4 * (8 + 4)),
    ],
    ids=["einsum", "matrix in front", "its copies", "vector", "recurrent"],
)
def test_a_product_that_is_no_known_layer_is_a_layer_in_float(product: Product, count: int) -> None:
    coverage = audited(product)
    (stray,) = coverage.fallbacks
    assert (stray.integer, stray.multiply_adds) == (False, count)
    assert stray.kind.startswith("aten.")
    assert "write it as a Conv2d or Linear" in stray.reason
    known = sum(layer.multiply_adds for layer in coverage.layers if layer.integer)
    assert coverage.share == coverage.wanted_share == known / (known + count) < 1


@pytest.mark.parametrize(
    "product",
    [
        lambda s, x: x @ x.transpose(1, 2) @ x,
        lambda s, x: F.scaled_dot_product_attention(s.query.expand(x.shape[0], -1, -1), x, x),
        lambda s, x: x * s.query + s.row[:, 1],
    ],
    ids=["computed", "attention of a stored query", "element by element"],
)
def test_what_is_no_product_with_stored_weights_is_none(product: Product) -> None:
    assert audited(product).fallbacks == ()


def test_counting_warns_of_nothing() -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = quantized(lambda s, x: s.mixer @ x)
        stray_products(model.graph, model.input_shape)
    assert said == []
