"""Facts of a placed student: counts by hand, widths, groups, sizes."""

import pytest
import torch
from support.small_networks import SHAPE, Mobile, Residual, Shuffle, placed
from torch import Tensor, nn

from lrq_deploy.planning.plan import LayerFacts
from lrq_deploy.planning.survey import estimate_sizes, survey_layers, survey_quantizers
from lrq_deploy.scheme import Scheme

pytestmark = pytest.mark.unit


def facts(network: type, scheme: Scheme | None = None) -> dict[str, LayerFacts]:
    return {x.name: x for x in survey_layers(placed(network(), scheme), SHAPE)}


def test_multiply_adds_by_hand() -> None:
    layers = facts(Residual)
    counts = {name: layer.multiply_adds for name, layer in layers.items()}
    assert counts == {
        "stem_0": 144 * 4 * 3 * 9,
        "first_0": 144 * 4 * 4 * 9,
        "second_0": 144 * 4 * 4 * 9,
        "down_0": 36 * 8 * 4 * 9,
        "last_0": 36 * 8 * 8 * 9,
        "head": 8 * 5,
    }
    assert layers["stem_0"].activations == 144 * (3 + 4)
    assert [name for name, layer in layers.items() if layer.gives_logits] == ["head"]


@pytest.mark.parametrize(
    ("layer", "grouping"),
    [
        (nn.Conv2d(4, 8, 3, stride=2, bias=False), "dense"),
        (nn.Conv2d(4, 8, (3, 2), dilation=2, groups=2, bias=False), "grouped"),
        (nn.Conv2d(4, 4, 3, groups=4, bias=False), "depthwise"),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, bias=False), "dense"),
        (nn.ConvTranspose2d(4, 8, 2, groups=2, bias=False), "grouped"),
        (nn.ConvTranspose2d(4, 12, 3, groups=4, bias=False), "depthwise"),
    ],
    ids=str,
)
def test_ones_times_ones_sum_to_the_multiply_adds(layer: nn.Module, grouping: str) -> None:
    """Without padding each product is one of the sum over all outputs."""
    before, behind = nn.Conv2d(3, 4, 1), (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    student = placed(nn.Sequential(before, layer, *behind))
    found = survey_layers(student, SHAPE)[1]
    with torch.no_grad():
        layer.get_parameter("weight").fill_(1.0)
        made = layer(torch.ones(1, 4, *SHAPE[1:]))
    assert found.multiply_adds == int(made.sum())
    assert found.activations == 4 * 144 + made.numel()
    assert found.grouping == grouping
    # A scale and a bias per output channel.
    channels = estimate_sizes((found,), 0, 0).memory_bytes - found.activations
    assert channels - layer.get_parameter("weight").numel() == 8 * expected_scales(layer)


def expected_scales(layer: nn.Module) -> int:
    """Groups of a transposed convolution share their scales."""
    weight = layer.get_parameter("weight")
    return weight.shape[1 if isinstance(layer, nn.ConvTranspose2d) else 0]


class Twice(nn.Module):
    """One layer reads the image and its own result."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(self.layer(x).relu()).mean((2, 3))
        return result


def test_a_layer_that_is_called_twice_counts_twice() -> None:
    found = survey_layers(placed(Twice()), SHAPE)
    assert sum(layer.multiply_adds for layer in found) == 2 * 144 * 3 * 3 * 9


def test_widths_follow_the_scheme() -> None:
    layers = facts(Residual, Scheme(3, 5, 7))
    assert (layers["stem_0"].weight_bits, layers["stem_0"].input_bits) == (7, 8)
    assert (layers["first_0"].weight_bits, layers["first_0"].input_bits) == (3, 5)
    assert (layers["head"].weight_bits, layers["head"].input_bits) == (7, 7)


def test_groups_are_told_apart() -> None:
    assert facts(Mobile)["depthwise_0"].grouping == "depthwise"
    assert facts(Shuffle)["branch_0"].grouping == "grouped"
    assert {x.grouping for x in facts(Residual).values()} == {"dense"}


def test_every_quantizer_is_listed_once() -> None:
    student = placed(Residual())
    found = survey_quantizers(student)
    assert len({q.name for q in found}) == len(found)
    assert found[0].name.startswith("input")
    assert (found[0].bits, found[0].signed) == (8, True)
    assert {q.bits for q in found} == {4, 8}


@pytest.mark.parametrize(("bits", "saved"), [(2, 3 / 4), (3, 1 / 2), (4, 1 / 2)])
def test_packed_weights_take_a_part_of_a_byte(bits: int, saved: float) -> None:
    layers = survey_layers(placed(Residual(), Scheme(bits, 4, None)), SHAPE)
    sizes = estimate_sizes(layers, 9, 123)
    weights = 4 * 3 * 9 + 2 * 4 * 4 * 9 + 8 * 4 * 9 + 8 * 8 * 9 + 5 * 8
    assert sizes.int8_bytes - sizes.packed_bytes == saved * weights
    assert sizes.float_bytes == 123
    channels, busiest = 4 + 4 + 4 + 8 + 8 + 5, 144 * (4 + 4)
    assert sizes.memory_bytes == weights + 8 * channels + busiest


def test_eight_bits_are_not_packed() -> None:
    layers = survey_layers(placed(Residual(), Scheme(5, 5, 8)), SHAPE)
    sizes = estimate_sizes(layers, 9, 123)
    assert sizes.packed_bytes == sizes.int8_bytes
