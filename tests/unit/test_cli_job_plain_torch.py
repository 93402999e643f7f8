"""What a caller has switched on in torch is off inside, and on again afterwards."""

import pytest
import torch

from lrq_deploy.cli.job.plain_torch import plain_torch

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_cpu_is_without_autocast_wherever_a_run_trains(device: str) -> None:
    with torch.autocast("cpu"):
        with plain_torch(torch.device(device)):
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")
