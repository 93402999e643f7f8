"""Average poolings: the same numbers from torch, numpy and both optimisation levels."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.small_networks import CENTRED, SHAPE, calibrated, conv_bn, graph_of, images
from support.small_networks import with_statistics as trained
from torch import Tensor, nn

from lrq_deploy.errors import UnsupportedNetworkError
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

# 12 pixels a side: windows of 3 at steps of 2 hang over the edge, with and without padding.
POOLINGS: dict[str, dict[str, Any]] = {
    "divisor": {"kernel_size": (2, 3), "divisor_override": 5},
    "divisor and padding": {"kernel_size": 3, "padding": 1, "divisor_override": 5},
    "ceil": {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    "ceil and counted padding": {
        "kernel_size": (3, 4),
        "stride": (2, 3),
        "padding": (1, 2),
        "ceil_mode": True,
    },
}


class Pooled(nn.Module):
    """An average pooling between two layers."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.options = options
        self.stem = conv_bn(3, 4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(F.relu(self.stem(x)), **self.options)
        result: Tensor = self.head(x.amax((2, 3)))
        return result


@pytest.mark.parametrize("name", POOLINGS)
def test_every_form_averages_alike(name: str) -> None:
    module = trained(Pooled(POOLINGS[name]))
    x = images(16, seed=7)
    torch.testing.assert_close(graph_of(module)(x), module(x))
    graph, table = freeze(calibrated(module, SCHEME))
    model = QuantizedModel(graph, table, SCHEME, SHAPE, 5, CENTRED, name, "")
    exact = exact_logits(model, x)
    assert compare(exact[:2], torch.from_numpy(reference_logits(model, x[:2]))).same_rows == 1
    data = to_onnx(model).SerializeToString()
    for level in ("off", "all"):
        assert compare(exact, open_session(data, level=level).logits(x)).same_rows == 1, level


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "stride": 2, "ceil_mode": True, "divisor_override": 4},
        {"kernel_size": 2, "stride": 13, "padding": 1, "ceil_mode": True},
    ],
    ids=["divisor", "window of padding"],
)
def test_windows_that_hang_over_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedNetworkError, match=r"average pooling.*avg_pool2d"):
        graph_of(Pooled(options))
