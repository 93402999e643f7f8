"""A student that rounding makes NaN is refused, and the operator named."""

import pytest
import torch
from support.small_networks import SHAPE, Residual, calibrated, images, quantizers
from torch import Tensor, fx, nn

from lrq_deploy.calibration.finite import check_finite
from lrq_deploy.errors import UnsupportedNetworkError
from lrq_deploy.scheme import Scheme

pytestmark = pytest.mark.unit


class Ratio(nn.Module):
    """Divides by a sum that a grid may round to 0, behind a mask of infinities."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
        self.register_buffer("mask", torch.tensor([True, False, False, False]).reshape(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        shares = torch.softmax(x.masked_fill(self.mask, float("-inf")), 1)
        x = x / torch.relu(x + 1e-4)
        logits: Tensor = self.head((shares * x).mean((2, 3)))
        return logits


def test_a_student_that_stays_finite_passes() -> None:
    check_finite(calibrated(Residual()), images())


def test_the_first_operator_that_is_not_finite_is_named() -> None:
    student = calibrated(Ratio(), Scheme(4, 4, 4))
    for name, quantizer in quantizers(student).items():
        if "add" in name or "relu" in name:
            quantizer.set_range(1e3, 0)
    with torch.no_grad():
        assert not bool(student(images()).isfinite().all())
    with pytest.raises(UnsupportedNetworkError, match=r"the result of div is not.*x / y\.clamp"):
        check_finite(student, images(4, SHAPE))


def test_infinity_is_named_where_it_begins_and_nothing_becomes_nan() -> None:
    graph = fx.Graph()
    grown = graph.call_function(torch.ops.aten.exp.default, (graph.placeholder("x"),))
    graph.output(graph.call_function(torch.ops.aten.mean.dim, (grown, [2, 3])))
    with pytest.raises(UnsupportedNetworkError, match="the result of exp_default is not"):
        check_finite(fx.GraphModule({}, graph), torch.full((2, 3, 4, 4), 1e3))
