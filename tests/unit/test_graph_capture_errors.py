"""Errors of capture: what is no classifier, too long, or of an archive."""

import warnings

import pytest
import torch
from support.small_networks import SHAPE
from torch import Tensor, nn

from lrq_deploy.errors import CaptureError, UnsupportedNetworkError
from lrq_deploy.graph.capture import capture, example_input

pytestmark = pytest.mark.unit


def test_a_detector_is_told_as_one(capfd: pytest.CaptureFixture[str]) -> None:
    class Detector(nn.Module):
        def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
            kept = [image[0][image[0] > 0] for image in x]
            return [{"boxes": k, "scores": k} if len(k) > 3 else {"boxes": k} for k in kept]

    with pytest.raises(UnsupportedNetworkError, match="boxes, scores per image") as caught:
        capture(Detector(), SHAPE)
    assert caught.value.remedy.startswith("detection heads are not supported")
    assert capfd.readouterr().err == ""


def test_a_long_error_of_torch_is_cut() -> None:
    class Verbose(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if torch.compiler.is_exporting():
                raise ValueError("word " * 1000)
            return x.mean((2, 3))

    with pytest.raises(CaptureError, match=r" word \.\.\. at ") as caught:
        capture(Verbose(), SHAPE)
    assert len(caught.value.received) < 350 + len(__file__)


def test_an_archive_has_to_be_exported_again() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()).train()
    archive = torch.export.export(network, (example_input(SHAPE),))
    with pytest.raises(UnsupportedNetworkError, match="stored statistics") as caught:
        capture(archive, SHAPE)
    assert "call eval() on the network" in caught.value.remedy
    assert caught.value.remedy.endswith("then export the network again, in evaluation mode")


def test_branches_of_torch_are_refused_by_name() -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            rows: Tensor = torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y * 3, (x,))
            return rows.mean((2, 3))

    with pytest.raises(UnsupportedNetworkError, match="torch's cond at"):
        capture(Branch(), SHAPE)


def test_a_part_of_torchscript_is_named() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        part = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3)))
    with pytest.raises(CaptureError, match="got 0, which is TorchScript"):
        capture(nn.Sequential(part, nn.Flatten()), SHAPE)


@pytest.mark.parametrize("archive", [None, False, True], ids=["network", "archive", "strict"])
def test_autocast_is_told_as_one(archive: bool | None) -> None:
    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                y: Tensor = self.conv(x)
            return y.float().mean((2, 3))

    network: nn.Module | torch.export.ExportedProgram = Cast().eval()
    if archive is not None:
        network = torch.export.export(Cast().eval(), (example_input(SHAPE),), strict=archive)
    with pytest.raises(CaptureError, match="take autocast"):
        capture(network, SHAPE)


def test_errors_of_a_graph_are_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    class Loop(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([image.mean((1, 2)) for image in x])

    with pytest.raises(CaptureError, match="dynamic batch"):
        capture(Loop(), SHAPE)
    assert capfd.readouterr().err == ""
