"""Linear layers over sequences: integers in ONNX Runtime, whichever axis the batch is."""

from collections.abc import Callable

import pytest
import torch
from support.small_networks import CENTRED, SHAPE, calibrated, conv_bn, images
from torch import Tensor, nn

from lrq_deploy.export.measures.coverage import audit
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.export.parity.compare import compare
from lrq_deploy.export.parity.reference import reference_logits
from lrq_deploy.export.parity.simulation import exact_logits
from lrq_deploy.export.runtime.session import open_session
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.freeze import freeze
from lrq_deploy.student.frozen import QuantizedModel

pytestmark = pytest.mark.unit

SCHEME = Scheme(4, 8)

Order = Callable[[Tensor], Tensor]
ORDERS: dict[str, tuple[Order, Order]] = {
    "batch first": (lambda x: x.permute(0, 2, 1), lambda x: x.permute(0, 2, 1)),
    "sequence first": (lambda x: x.permute(2, 0, 1), lambda x: x.permute(1, 2, 0)),
}


class Mixing(nn.Module):
    """A linear layer on every pixel of a feature map."""

    def __init__(self, order: tuple[Order, Order]) -> None:
        super().__init__()
        self.into, self.back = order
        self.stem = conv_bn(3, 4, 2)
        self.mix = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.into(torch.relu(self.stem(x)).flatten(2))
        x = torch.relu(self.norm(self.back(torch.relu(self.mix(rows)))))
        result: Tensor = self.head(x.mean(2))
        return result


@pytest.mark.parametrize("name", ORDERS)
def test_every_layer_is_an_integer_kernel(name: str) -> None:
    graph, table = freeze(calibrated(Mixing(ORDERS[name]), SCHEME))
    model = QuantizedModel(graph, table, SCHEME, SHAPE, 5, CENTRED, name, "")
    x = images(7, seed=7)
    exact = exact_logits(model, x)
    data = to_onnx(model).SerializeToString()
    coverage = audit(model, data)
    assert coverage.fallbacks == ()
    assert {layer.multiply_adds for layer in coverage.layers} >= {36 * 4 * 6}
    for count in (1, 7):
        assert compare(exact[:count], open_session(data).logits(x[:count])).same_rows == 1
    assert compare(exact[:2], torch.from_numpy(reference_logits(model, x[:2]))).same_rows == 1
