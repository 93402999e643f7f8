"""What rates are relative to: the root mean square, and for biases not less than a floor."""

import pytest
import torch

from lrq_deploy.graph.specification import LayerSpec
from lrq_deploy.method.fitting.typical_size import bias_size, weight_size
from lrq_deploy.scheme import IntegerRange
from lrq_deploy.student.layers import QuantizedLayer

pytestmark = pytest.mark.unit


def layer(weights: list[float], biases: list[float] | None) -> QuantizedLayer:
    bias = None if biases is None else torch.tensor(biases)
    rows = torch.tensor([weights])
    return QuantizedLayer(LayerSpec("linear"), rows, bias, IntegerRange(-8, 7), 4, "q")


def test_weights_have_the_size_of_their_root_mean_square() -> None:
    assert weight_size(layer([3.0, -4.0, 0.0, 0.0], None)) == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("weight", "biases", "size"),
    [
        (1.0, [6.0, -8.0], 50**0.5),
        (1.0, [0.0, 0.0], 1e-3),
        (1.0, None, 0.0),
        (1e-5, [0.0, 0.0], 1e-5),
        (1e-5, [3e-5, 3e-5], 3e-5),
    ],
    ids=["own", "near-0", "none", "near-0-beside-small-weights", "small"],
)
def test_biases_have_their_own_size_or_the_least(
    weight: float, biases: list[float] | None, size: float
) -> None:
    assert bias_size(layer([weight], biases)) == pytest.approx(size)
