"""Networks that torch has quantized: refused as such, whatever they come in."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization
from torch.ao.nn.quantized import FloatFunctional, FXFloatFunctional
from torch.ao.quantization import quantize_fx

from lrq_deploy.checkpoint.fit import fit_state_dict
from lrq_deploy.checkpoint.read import read_state_dict
from lrq_deploy.errors import CheckpointError
from lrq_deploy.loading import adopt_module, load_model
from lrq_deploy.options import QuantizeOptions

pytestmark = [
    pytest.mark.unit,
    pytest.mark.filterwarnings("ignore"),  # torch's own, on what it no longer recommends
    pytest.mark.skipif(
        "x86" not in torch.backends.quantized.supported_engines,
        reason="torch has no integer kernels of x86 here",
    ),
]

ALREADY = "not be quantized already"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = quantization.QuantStub(), quantization.DeQuantStub()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.leave(self.fc(self.conv(self.enter(images)).mean((2, 3))))
        return logits


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = quantization.QuantStub(), quantization.DeQuantStub()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.more = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
        self.fc = nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.more(self.bn(self.conv(self.enter(images))))
        logits: Tensor = self.leave(self.fc(maps.mean((2, 3))))
        return logits


class Reordered(Normalised):
    """The same names, defined in another order."""

    def __init__(self) -> None:
        super().__init__()
        self._modules = dict(reversed(self._modules.items()))


def _prepared() -> nn.Module:
    network = Net().eval()
    network.qconfig = quantization.get_default_qconfig("x86")
    prepared: nn.Module = quantization.prepare(network)
    prepared(torch.randn(2, 3, 8, 8))
    return prepared


def _quantized(kind: str) -> nn.Module:
    if kind == "prepared":
        return _prepared()
    network: nn.Module
    if kind == "dynamic":
        network = quantization.quantize_dynamic(Net().eval(), {nn.Linear})
    else:
        network = quantization.convert(_prepared())
    return torch.jit.script(network) if kind == "script" else network


def _options(model: Path) -> QuantizeOptions:
    options = QuantizeOptions(model=model, out=model.parent / "out", input_shape=(3, 8, 8))
    return dataclasses.replace(options, trust_pickle=True)


@pytest.mark.parametrize("kind", ["prepared", "static", "dynamic", "script"])
def test_in_memory(tmp_path: Path, kind: str) -> None:
    with pytest.raises(CheckpointError, match=ALREADY):
        adopt_module(_quantized(kind), _options(tmp_path / "net"))


@pytest.mark.parametrize("kind", ["static", "dynamic", "script"])
def test_in_a_trusted_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "c.pt"
    network = _quantized(kind)
    torch.jit.save(network, path) if kind == "script" else torch.save(network, path)
    with pytest.raises(CheckpointError, match=ALREADY):
        load_model(_options(path))


def test_sums_that_wait_for_being_quantized_are_in_float(tmp_path: Path) -> None:
    network = Net()
    network.skip, network.gate = FloatFunctional(), FXFloatFunctional()
    assert isinstance(adopt_module(network, _options(tmp_path / "net")).program, Net)
    network.skip.activation_post_process = quantization.MinMaxObserver()
    with pytest.raises(CheckpointError, match=r"MinMaxObserver as skip\."):
        adopt_module(network, _options(tmp_path / "net"))


def test_packed_linear_layers_of_a_state_dict(tmp_path: Path) -> None:
    torch.save(_quantized("dynamic").state_dict(), tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"fc\._packed_params\._packed_params"):
        read_state_dict(tmp_path / "c.pt")


def test_stubs_alone_are_no_quantizers(tmp_path: Path) -> None:
    assert adopt_module(Net(), _options(tmp_path / "net")).input_shape == (3, 8, 8)


def _trained_for_quantization(kind: str) -> nn.Module:
    network = Normalised().train()
    network.qconfig = quantization.get_default_qat_qconfig("x86")
    if kind == "fused":
        network = quantization.fuse_modules_qat(network, [["conv", "bn"], ["more.0", "more.1"]])
    prepared: nn.Module
    if kind == "fx":
        mapping = quantization.get_default_qat_qconfig_mapping("x86")
        prepared = quantize_fx.prepare_qat_fx(network, mapping, (torch.rand(1, 3, 8, 8),))
    else:
        prepared = quantization.prepare_qat(network)
    for _ in range(2):
        prepared(torch.rand(4, 3, 8, 8))
    return prepared.eval()


@pytest.mark.parametrize("kind", ["eager", "fused", "fx"])
def test_the_remedy_keeps_what_was_trained_for_quantization(tmp_path: Path, kind: str) -> None:
    prepared = _trained_for_quantization(kind)
    with pytest.raises(CheckpointError, match=ALREADY) as refused:
        adopt_module(prepared, _options(tmp_path / "net"))
    network = Normalised().eval()
    exec(
        refused.value.remedy.partition("pass that: ")[2], {"prepared": prepared, "network": network}
    )
    prepared.apply(quantization.disable_fake_quant)
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(network(images), prepared(images))
    assert adopt_module(network, _options(tmp_path / "net")).input_shape == (3, 8, 8)


def test_the_remedy_of_a_state_dict_that_was_trained_for_quantization(tmp_path: Path) -> None:
    path, network = tmp_path / "c.pt", Normalised()
    prepared = _trained_for_quantization("fused")
    torch.save(prepared.state_dict(), path)
    weights = read_state_dict(path)
    with pytest.raises(CheckpointError, match="must fit") as refused:
        fit_state_dict(network, weights.tensors, source=weights.source)
    line = refused.value.remedy.partition("pass that: ")[2]
    exec(line, {"torch": torch, "network": network})
    assert torch.equal(
        network.get_buffer("bn.running_mean"), prepared.get_buffer("conv.bn.running_mean")
    )
    with pytest.raises(RuntimeError, match="Missing key"):
        exec(line, {"torch": torch, "network": Reordered()})
