"""TorchScript networks are captured as the modules that they were made from."""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.small_networks import SHAPE, Mobile, Residual, with_statistics
from torch import nn

from lrq_deploy.checkpoint.quantized import refuse_quantized
from lrq_deploy.errors import CaptureError
from lrq_deploy.export.missing_form import place_of
from lrq_deploy.graph.capture import capture
from lrq_deploy.graph.scripted import ScriptedNetwork

pytestmark = pytest.mark.unit


def _traced(network: nn.Module) -> torch.jit.ScriptModule:
    traced: torch.jit.ScriptModule = torch.jit.trace(network, torch.zeros(1, *SHAPE))
    return traced


class Same(nn.Module):
    """Paddings by name, over maps and over rows."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Conv2d(3, 4, (3, 4), padding="same", dilation=2)
        self.none = nn.Conv2d(4, 4, 3, padding="valid")
        self.rows = nn.Conv1d(4, 6, 4, padding="same", groups=2)
        self.head = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.rows(self.none(self.map(x)).flatten(2))
        result: torch.Tensor = self.head(x.mean(2))
        return result


@pytest.mark.parametrize("made", [Residual, Mobile, Same])
@pytest.mark.parametrize("compiled", [_traced, torch.jit.script], ids=["traced", "scripted"])
def test_the_graph_is_that_of_the_module(
    compiled: Callable[[nn.Module], torch.jit.ScriptModule], made: Callable[[], nn.Module]
) -> None:
    network = with_statistics(made())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = ScriptedNetwork.copy_of(compiled(copy.deepcopy(network)).double().train())
    found, expected = capture(scripted, SHAPE), capture(network, SHAPE)
    assert [n.target for n in found.graph.nodes if n.op == "call_function"] == [
        n.target for n in expected.graph.nodes if n.op == "call_function"
    ]
    layers = [node.meta.get("layer") for node in found.graph.nodes]
    assert layers == [node.meta.get("layer") for node in expected.graph.nodes]
    for batch in (1, 3):
        images = torch.randn(batch, *SHAPE)
        torch.testing.assert_close(found(images), network(images), rtol=1e-5, atol=1e-5)


def test_a_trace_in_training_mode_is_told_as_one() -> None:
    network = with_statistics(Residual()).train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, torch.randn(2, *SHAPE), check_trace=False)
        ScriptedNetwork(torch.jit.script(network))
    with pytest.raises(CaptureError, match=r"traced in evaluation mode.*call eval\(\)"):
        ScriptedNetwork(traced)


class Standardised(nn.Conv2d):
    """As in BiT and NFNet: its weights have mean 0 and variance 1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(rows, None, None, training=True, momentum=0.0)
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias)


def test_a_trace_may_standardise_its_weights() -> None:
    network = nn.Sequential(Standardised(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network.eval(), torch.zeros(1, 3, 8, 8))
    images = torch.randn(3, 3, 8, 8)
    found = capture(ScriptedNetwork(traced), (3, 8, 8))(images)
    torch.testing.assert_close(found, network(images), rtol=1e-5, atol=1e-5)


class Methods(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 5)

    @torch.jit.export
    def logits(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(x.mean((2, 3)))
        return result


def test_a_script_without_forward_is_told_as_such() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.script(Methods())
    refuse_quantized(script, "script")
    with pytest.raises(CaptureError, match="has no attribute 'forward'"):
        capture(ScriptedNetwork(script), SHAPE)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(x.mean((2, 3)))
        return result * 2 if bool(x.sum() > 0) else result


@pytest.mark.parametrize(("channels", "told"), [(3, "data-dependent"), (4, r"mat1 and mat2|shape")])
def test_an_error_inside_of_a_script_is_told_without_our_own_lines(
    channels: int, told: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = ScriptedNetwork.copy_of(torch.jit.script(Branching().eval()))
    with pytest.raises(CaptureError, match=told) as caught:
        capture(network, (channels, 8, 8))
    assert "scripted.py" not in str(caught.value)
    assert "line that is named" not in str(caught.value)


def test_operators_of_a_script_have_no_line_of_ours() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = ScriptedNetwork.copy_of(torch.jit.script(with_statistics(Residual())))
    graph = capture(network, SHAPE).graph
    assert {place_of(node) for node in graph.nodes} == {""}
