"""Parts of a student: which scales learn, what stays float, and what is on which grid."""

import pytest
import torch
from support.small_networks import Residual, calibrated, graph_of, images
from torch import Tensor

from lrq_deploy.graph.specification import LayerSpec
from lrq_deploy.scheme import IntegerRange
from lrq_deploy.student.layers import (
    ActQuantizer,
    FloatMix,
    QuantizedLayer,
    channel_scale_shape,
    float_twin,
)

pytestmark = pytest.mark.unit

FOUR = IntegerRange(0, 15)


def quantizer(signed: bool = False, bounds: IntegerRange = FOUR) -> ActQuantizer:
    made = ActQuantizer(bounds, 4, signed)
    made.set_range(0.1)
    return made


def mix(share: float) -> FloatMix:
    return FloatMix(share, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("largest", "known", "learns"),
    [(14, None, True), (126, None, True), (127, None, False), (255, None, False), (14, 1.0, False)],
)
def test_a_scale_learns_where_it_is_coarse_and_not_known(
    largest: int, known: float | None, learns: bool
) -> None:
    limits = None if known is None else (0.0, known)
    assert ActQuantizer(IntegerRange(0, largest), 8, False, limits).learns == learns


@pytest.mark.parametrize("shape", [(64, 5, 7, 9), (64, 315), (20_001,)])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_a_share_of_the_values_stays_float(shape: tuple[int, ...], share: float) -> None:
    quantized, values = torch.zeros(shape), torch.rand(shape) + 1
    mixes = mix(share)
    mixed = mixes(quantized, values)
    assert (share > 0) == (not torch.equal(mixed, mixes(quantized, values)))
    chosen = mixed != 0
    assert torch.equal(mixed[chosen], values[chosen])
    assert float(chosen.float().mean()) == pytest.approx(share, abs=0.02)


def test_a_few_values_are_quantized_even_where_all_are_to_stay_float() -> None:
    chosen = mix(1.0)(torch.zeros(2**16), torch.ones(2**16))
    assert float(1 - chosen.mean()) == pytest.approx(1 / 256, rel=0.3)


@pytest.mark.parametrize("signed", [False, True])
def test_values_stay_float_while_gradients_are_taken_alone(signed: bool) -> None:
    made = quantizer(signed, IntegerRange(-8, 7) if signed else FOUR)
    x = torch.linspace(-0.7, 0.7, 2**12)
    with torch.no_grad():
        plain = made(x)
        made.float_mix = mix(0.5)
        assert torch.equal(made(x), plain)
    mixed = made(x).detach()
    off_grid = (mixed - plain).abs() > 1e-6
    assert 0.4 < float(off_grid[x > 0].float().mean()) < 0.6
    assert torch.equal(mixed[off_grid], x[off_grid])
    assert signed or float(mixed.min()) == 0


@pytest.mark.parametrize("signed", [False, True])
def test_switched_off_it_only_clips_what_has_no_sign(signed: bool) -> None:
    made = quantizer(signed)
    made.enabled = False
    x = torch.linspace(-9, 9, 101)
    assert torch.equal(made(x), x if signed else x.relu())


def layer(bias: Tensor | None = None) -> QuantizedLayer:
    weight = torch.tensor([[0.26, -0.9], [0.11, 0.02]])
    made = QuantizedLayer(LayerSpec("linear"), weight, bias, IntegerRange(-8, 7), 4, "q")
    made.set_scale(torch.tensor([0.1, 0.05]))
    return made


def test_a_layer_computes_with_weights_and_biases_on_their_grids() -> None:
    made = layer(torch.tensor([0.333, -0.0171]))
    result = made(torch.tensor([[1.0, 2.0]]), torch.tensor(0.5).log()).detach()
    weight, bias = torch.tensor([[0.3, -0.8], [0.1, 0.0]]), torch.tensor([0.35, -0.025])
    torch.testing.assert_close(made.quantized_weight().detach(), weight)
    torch.testing.assert_close(result, torch.tensor([[1.0, 2.0]]) @ weight.T + bias)


def test_switched_off_a_layer_is_the_float_one() -> None:
    made = layer(torch.tensor([0.333, -0.0171]))
    made.enabled = False
    x = torch.tensor([[1.0, 2.0]])
    wanted = torch.nn.functional.linear(x, made.weight, made.bias)
    assert torch.equal(made(x, torch.tensor(0.5).log()), wanted)


def test_a_learned_rounding_does_not_leave_the_bounds() -> None:
    made = layer()
    rounding = made.learn_rounding()
    torch.testing.assert_close(made.quantized_weight()[0, 1].detach(), torch.tensor(-0.8))
    with torch.no_grad():
        rounding.preference.fill_(-9)
    settled = made.settled_weight()
    torch.testing.assert_close(settled, torch.tensor([[0.2, -0.8], [0.1, 0.0]]))
    made.settle_rounding(settled)
    assert made.rounding is None
    torch.testing.assert_close(made.quantized_weight().detach(), settled)


def test_groups_of_a_transposed_convolution_share_the_scales_of_their_channels() -> None:
    spec = LayerSpec("conv_transpose2d", groups=2)
    scale = torch.tensor([1.0, 2.0, 3.0])
    assert channel_scale_shape(scale, spec, torch.zeros(6)).tolist() == [1, 2, 3, 1, 2, 3]
    assert channel_scale_shape(scale, LayerSpec("conv2d"), torch.zeros(3)).tolist() == [1, 2, 3]


def test_the_float_twin_is_the_network_and_learns_nothing() -> None:
    student = calibrated(Residual())
    twin = float_twin(student)
    torch.testing.assert_close(twin(images()), graph_of(Residual())(images()))
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    assert any(parameter.requires_grad for parameter in student.parameters())
    assert not torch.equal(student(images()), twin(images()))
