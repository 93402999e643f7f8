"""Which layers a scheme keeps in float, and what is quantized around them."""

import pytest
import torch
from support.small_networks import Mobile, conv_bn, graph_of, images, placed, quantizers
from torch import Tensor, nn

from lrq_deploy.errors import OptionError
from lrq_deploy.graph.fold_batch_norm import fold_batch_norm
from lrq_deploy.planning.survey import estimate_sizes, survey_layers
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.frozen import FloatLayer
from lrq_deploy.student.kept_float import kept_float
from lrq_deploy.student.layers import QuantizedLayer, set_enabled

pytestmark = pytest.mark.unit

FLOAT = Scheme(4, 4, depthwise="float")


class Grouped(nn.Module):
    """Convolutions of 8 channels in 1, 2, 4 and 8 groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.parts = nn.ModuleList(conv_bn(8, 8, groups=groups) for groups in (1, 2, 4, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for part in self.parts:
            x = torch.relu(part(x))
        result: Tensor = self.head(x.mean((2, 3)))
        return result


def test_groups_of_fewer_than_four_channels_stay_in_float() -> None:
    folded = fold_batch_norm(graph_of(Grouped()))
    kept = kept_float(folded, FLOAT)
    assert [node.args[6] for node in kept] == [4, 8]
    assert kept_float(folded, Scheme(4, 4)) == []


def test_a_transposed_convolution_of_few_channels_is_quantized() -> None:
    up = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 8, 2, 2, groups=8))
    network = nn.Sequential(up, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    assert kept_float(fold_batch_norm(graph_of(network)), FLOAT) == []


def test_a_float_layer_has_the_weights_of_the_teacher_and_integer_neighbours() -> None:
    module = Mobile()
    student = placed(module, FLOAT)
    plain = placed(module, Scheme(4, 4))
    path = "layers.depthwise_0"
    layer, quantized = student.get_submodule(path), plain.get_submodule(path)
    assert isinstance(layer, FloatLayer)
    assert isinstance(quantized, QuantizedLayer)
    assert torch.equal(layer.stored_weight, quantized.weight)
    assert list(layer.parameters()) == []
    call = next(node for node in student.graph.nodes if node.target == path)
    source = student.get_submodule(str(call.args[0].target))
    assert source.bits == 8
    # Only a layer that multiplies few bits needs a narrow copy of the sum's operand.
    assert set(quantizers(plain)) - set(quantizers(student)) == {"hardswish_narrow"}
    set_enabled(student, False)
    set_enabled(plain, False)
    with torch.no_grad():
        torch.testing.assert_close(student(images()), plain(images()))


def test_a_plan_counts_four_bytes_per_weight() -> None:
    facts = survey_layers(placed(Mobile(), FLOAT), (3, 12, 12))
    kept = [layer for layer in facts if layer.is_float]
    assert [layer.name for layer in kept] == ["depthwise_0"]
    assert (kept[0].weight_bits, kept[0].grouping) == (32, "depthwise")
    plain = survey_layers(placed(Mobile(), Scheme(4, 4)), (3, 12, 12))
    more = estimate_sizes(facts, 0, 0).packed_bytes - estimate_sizes(plain, 0, 0).packed_bytes
    assert more == 8 * 9 * 4 - 8 * 9 // 2


def test_the_scheme_names_it_and_refuses_other_words() -> None:
    assert FLOAT.describe() == "W4A4, edge 8, depthwise float"
    with pytest.raises(OptionError, match="depthwise must be"):
        Scheme(depthwise="fp16")  # type: ignore[arg-type]


class TwoLinears(nn.Module):
    """Linear layers behind an average, behind a linear layer and behind a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 32)
        self.side = nn.Conv2d(32, 32, 12)
        self.first = nn.Linear(32, 64)
        self.second = nn.Linear(64, 5)
        self.third = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        main = self.second(torch.relu(self.first(x.mean((2, 3)))))
        result: Tensor = main + self.third(torch.relu(self.side(x)).flatten(1))
        return result


def test_int4_linear_takes_layers_that_read_no_integers_of_a_layer() -> None:
    scheme = Scheme(4, 8, int4_linear=True)
    folded = fold_batch_norm(graph_of(TwoLinears()))
    assert [str(node.meta.get("layer")) for node in kept_float(folded, scheme)] == ["first"]
    student = placed(TwoLinears(), scheme)
    # The average that only INT4 weights multiply has no quantizer; all others have.
    assert "mean" not in quantizers(student)
    assert "mean" in quantizers(placed(TwoLinears(), Scheme(4, 8)))
