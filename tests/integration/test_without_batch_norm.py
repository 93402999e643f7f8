"""A network without BatchNorm, end to end: the digits' own, folded as a vendor would."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

from lrq_deploy.cli import main
from lrq_deploy.cli.commands.demo_network import DigitNetwork, TrainedDigits

pytestmark = pytest.mark.integration

ARCH = """
from torch import nn
from lrq_deploy.cli.commands.demo_network import DigitNetwork

def folded():
    network = DigitNetwork()
    for part in (network.stem, network.inner, network.down, network.last):
        old = part[0]
        part[0] = nn.Conv2d(old.in_channels, old.out_channels, 3, old.stride, 1)
        part[1] = nn.Identity()
    return network
"""


@dataclass(frozen=True)
class Folded:
    model: Path
    arch: str
    images: Path

    def words(self, command: str) -> list[str]:
        shape = ("--input-shape", "1,8,8", "--mean", "0", "--std", "1")
        return ["lrq-deploy", command, str(self.model), "--arch", self.arch, *shape, "--json"]


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory, digits_teacher: TrainedDigits) -> Folded:
    network = DigitNetwork().eval()
    network.load_state_dict(torch.export.load(digits_teacher.model_file).state_dict)
    for part in (network.stem, network.inner, network.down, network.last):
        convolution, norm = part[0], part[1]
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        part[0], part[1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()
    folder = tmp_path_factory.mktemp("folded")
    torch.save(network.state_dict(), folder / "model.pt")
    (folder / "net.py").write_text(ARCH)
    return Folded(folder / "model.pt", f"{folder / 'net.py'}:folded", digits_teacher.image_folder)


def ran(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as caught:
        main.run()
    written = capsys.readouterr()
    assert caught.value.code == 0, written.err
    return written.out


def test_it_is_quantized_on_painted_images(
    folded: Folded,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "bundle"
    words = [*folded.words("quantize"), "--bits", "4", "--recipe", "fast", "--out", str(out)]
    found = json.loads(ran([*words, "--images", str(folded.images)], monkeypatch, capsys))
    assert found["ship"]
    assert found["teacher_accuracy"] > 97
    assert found["agreement"] > 97.5
    assert found["integer_share"] == 100
    options = json.loads((out / "manifest.json").read_text())["options"]
    assert (options["method_name"], options["method"]["image_source"]) == ("leaves", "leaves")


def test_its_layers_are_ranked(
    folded: Folded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = json.loads(ran(folded.words("sensitivity"), monkeypatch, capsys))
    assert len(table["ranking"]["weight"]["4"]) == 5
