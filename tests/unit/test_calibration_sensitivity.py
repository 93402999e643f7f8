"""What each tensor loses alone: against students of which one part is switched on by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.small_networks import ALL, calibrated, conv_bn, images, placed
from torch import Tensor, fx, nn

from lrq_deploy.calibration.ranges import search_weight_scale
from lrq_deploy.calibration.sensitivity import Losses, measure_sensitivity, probe_settings
from lrq_deploy.progress import silent
from lrq_deploy.scheme import Scheme
from lrq_deploy.sensitivity import PROBED_WIDTHS, SensitivityTable
from lrq_deploy.student.layers import ActQuantizer, QuantizedLayer, set_enabled
from lrq_deploy.target import PORTABLE

pytestmark = pytest.mark.unit

BYTES = Scheme(8, 8)


def measured(network: nn.Module, made: Tensor) -> SensitivityTable:
    student = placed(network, BYTES)
    return measure_sensitivity(student, made, PORTABLE, True, 0, "net", silent)


def by_hand(student: fx.GraphModule, made: Tensor, part: ActQuantizer | QuantizedLayer) -> Losses:
    """Losses with ``part`` alone switched on."""
    losses = Losses()
    with torch.no_grad():
        set_enabled(student, False)
        teacher = student(made)
        part.enabled = True
        losses.add(teacher, student(made))
    return losses


@pytest.mark.parametrize("name", ALL)
def test_every_weight_alone_equals_a_student_with_that_layer_on(name: str) -> None:
    made = images(24)
    table = measured(ALL[name](), made)
    student = placed(ALL[name](), BYTES)
    for entry in table.of("weight"):
        layer = student.get_submodule(entry.name)
        assert isinstance(layer, QuantizedLayer)
        source = student.get_submodule(layer.input_quantizer)
        assert isinstance(source, ActQuantizer)
        layer.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach())
        layer.bounds = PORTABLE.weight_range(3, source.bounds)
        layer.set_scale(search_weight_scale(layer.weight, layer.spec.channel_axis, layer.bounds))
        # So fine a step that the integer bias is the float one.
        source.set_range(1e-6)
        expected = by_hand(student, made, layer).damage(3)
        assert entry.at(3).kl == pytest.approx(expected.kl, rel=1e-2, abs=1e-6)
        assert entry.at(3).agreement == pytest.approx(expected.agreement, abs=0.02)


def test_every_activation_alone_equals_a_calibrated_student_with_that_quantizer_on() -> None:
    made = images(16)
    table = measured(ALL["residual"](), made)
    # With few images both searches see every value.
    student = calibrated(ALL["residual"](), Scheme(8, 4, 4, residual_bits=None), count=16)
    compared = 0
    for entry in table.of("activation"):
        quantizer = student.get_submodule(entry.name)
        assert isinstance(quantizer, ActQuantizer)
        if quantizer.bits == 4:
            expected = by_hand(student, made, quantizer).damage(4)
            assert entry.at(4).kl == pytest.approx(expected.kl, rel=1e-3, abs=1e-7)
            compared += 1
    assert compared > 5


def test_eight_bits_lose_least_and_readers_are_named() -> None:
    table = measured(ALL["residual"](), images(32))
    for kind in ("weight", "activation"):
        totals = [sum(e.at(bits).kl for e in table.of(kind)) for bits in PROBED_WIDTHS]
        assert totals[-1] < min(totals[:-1]) / 20
    layers = {entry.name for entry in table.of("weight")}
    assert {layer for e in table.of("activation") for layer in e.layers} == layers
    assert any(not entry.layers for entry in table.of("activation"))
    stem = next(e for e in table.of("weight") if e.name == "layers.stem_0")
    assert stem.elements == 4 * 3 * 9
    assert table.of("activation")[0].elements == 3 * 12 * 12


class Forked(nn.Module):
    """Two layers read one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = conv_bn(3, 4), conv_bn(4, 4), conv_bn(4, 4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        logits: Tensor = self.head((self.first(x) + self.second(x)).mean((2, 3)))
        return logits


def test_all_readers_of_an_activation_are_named() -> None:
    table = measured(Forked(), images(4))
    entry = next(e for e in table.of("activation") if len(e.layers) > 1)
    assert entry.layers == ("layers.first_0", "layers.second_0")


@given(st.integers(1, 6), st.integers(2, 5), st.integers(0, 99))
def test_losses_are_zero_only_without_a_difference(rows: int, classes: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    teacher, student = torch.randn(2, rows, classes, generator=random) * 3
    same, other = Losses(), Losses()
    same.add(teacher, teacher)
    other.add(teacher, student)
    assert same.damage(4).kl == pytest.approx(0, abs=1e-6)
    assert (same.damage(4).agreement, same.damage(4).drop_points) == (1.0, 0.0)
    damage = other.damage(4)
    assert damage.kl > 0
    assert 0 <= damage.agreement <= 1
    assert (damage.drop_points > 0) == (damage.agreement < 1)


def test_a_changed_answer_costs_the_difference_of_the_teachers_probabilities() -> None:
    losses = Losses()
    losses.add(torch.tensor([[0.7, 0.2, 0.1]]).log(), torch.tensor([[0.1, 0.3, 0.6]]).log())
    assert losses.damage(2).drop_points == pytest.approx(60.0)


def test_labels_are_choices_of_two() -> None:
    losses = Losses("multilabel")
    teacher = torch.tensor([[0.9, 0.2]])
    losses.add(teacher.logit(), torch.tensor([[0.9, 0.6]]).logit())
    expected = 0.2 * torch.log(torch.tensor(0.2 / 0.6)) + 0.8 * torch.log(torch.tensor(0.8 / 0.4))
    assert losses.damage(2).kl == pytest.approx(float(expected) / 2, rel=1e-5)
    assert losses.damage(2).agreement == 0.5
    assert losses.damage(2).drop_points == pytest.approx(100 * 0.6 / 2, rel=1e-5)


def test_a_network_of_labels_is_measured_by_its_labels() -> None:
    made = images(16)
    student = placed(ALL["residual"](), BYTES)
    table = measure_sensitivity(student, made, PORTABLE, True, 0, "net", silent, "multilabel")
    # A label of an image counts, not an image: five times as many can differ.
    shares = [16 * entry.at(2).agreement for entry in table.entries]
    assert any(abs(share - round(share)) > 0.1 for share in shares)


def test_the_probe_takes_few_images_of_any_size() -> None:
    small, large = probe_settings((3, 32, 32)), probe_settings((3, 224, 224))
    assert small.pool_images == 256
    assert small.held_out_images == large.held_out_images == 0
    assert large.batch_size < small.batch_size
