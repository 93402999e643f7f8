"""The exact student on operators that read constants, which torch does not promote by itself."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.small_networks import CENTRED, SHAPE, calibrated, conv_bn, images
from torch import Tensor, nn

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

Curve = Callable[["Curved", Tensor], Tensor]


class Curved(nn.Module):
    """An operator with a constant between two layers."""

    def __init__(self, curve: Curve) -> None:
        super().__init__()
        self.curve = curve
        self.stem = conv_bn(3, 4)
        self.body = conv_bn(4, 6)
        self.head = nn.Linear(6, 5)
        self.slopes = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.body(self.curve(self, self.stem(x))))
        result: Tensor = self.head(x.mean((2, 3)))
        return result


def _steps(network: Curved, x: Tensor) -> Tensor:
    return torch.minimum(F.threshold(x, 0.1, -0.2), network.slopes[0]) + F.logsigmoid(x)


@pytest.mark.parametrize(
    "curve", [lambda n, x: F.prelu(x, n.slopes), _steps], ids=["prelu", "steps"]
)
def test_constants_take_the_type_of_the_exact_student(curve: Curve) -> None:
    graph, table = freeze(calibrated(Curved(curve), SCHEME))
    model = QuantizedModel(graph, table, SCHEME, SHAPE, 5, CENTRED, "curved", "")
    x = images(16, seed=7)
    exact = exact_logits(model, x)
    assert compare(exact[:2], torch.from_numpy(reference_logits(model, x[:2]))).same_rows == 1
    assert compare(exact, open_session(to_onnx(model).SerializeToString()).logits(x)).same_rows == 1
