"""Layers that wait for their first batch: named, wherever the network comes from."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lrq_deploy.architecture.user_file import build_from_file
from lrq_deploy.checkpoint.read import read_state_dict
from lrq_deploy.errors import CheckpointError
from lrq_deploy.loading import adopt_module
from lrq_deploy.options import QuantizeOptions

pytestmark = [
    pytest.mark.unit,
    pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning"),
]

REFUSED = r"must know their sizes; got .*, whose 0\.weight has none .*torch\.zeros\(1, 3,"
FACTORY = """from torch import nn
def make():
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.AvgPool2d(6), nn.Flatten(), nn.LazyLinear(5))
"""


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.AvgPool2d(6), nn.Flatten(), nn.LazyLinear(5))


@pytest.mark.parametrize("met", [False, True])
def test_in_memory(tmp_path: Path, met: bool) -> None:
    network, options = lazy(), QuantizeOptions(tmp_path / "net", tmp_path, input_shape=(3, 8, 8))
    if met:
        network(torch.zeros(1, 3, 8, 8))
        assert adopt_module(network, options).input_shape == (3, 8, 8)
    else:
        with pytest.raises(CheckpointError, match=REFUSED):
            adopt_module(network, options)


def test_a_buffer_alone(tmp_path: Path) -> None:
    options = QuantizeOptions(tmp_path / "net", tmp_path, input_shape=(3, 8, 8))
    network = nn.Sequential(nn.LazyBatchNorm2d(affine=False))
    with pytest.raises(CheckpointError, match=r"0\.running_mean"):
        adopt_module(network, options)


def test_in_a_trusted_file(tmp_path: Path) -> None:
    torch.save(lazy(), tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=REFUSED):
        read_state_dict(tmp_path / "c.pt", trust_pickle=True)


def test_from_a_factory(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(FACTORY)
    with pytest.raises(CheckpointError, match=REFUSED):
        build_from_file(tmp_path / "net.py", "make", None)
