"""TF32 is on while CUDA trains, and off before and after; the settings need no GPU."""

import pytest
import torch

from lrq_deploy.method.steps.tensor_cores import tf32

pytestmark = pytest.mark.unit

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def precisions() -> tuple[str, str]:
    conv = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    return torch.backends.cuda.matmul.fp32_precision, conv.fp32_precision


def test_training_on_cuda_uses_tf32_and_leaves_what_was_set() -> None:
    before = precisions()
    with tf32(CUDA):
        assert precisions() == ("tf32", "tf32")
    assert precisions() == before
    # The older switches, which torch.compile reads, agree with each other again.
    torch.get_float32_matmul_precision()


def test_an_error_leaves_what_was_set() -> None:
    before = precisions()
    with pytest.raises(ValueError, match="stop"), tf32(CUDA):
        raise ValueError("stop")
    assert precisions() == before


def test_the_cpu_keeps_its_settings() -> None:
    before = precisions()
    with tf32(CPU):
        assert precisions() == before
