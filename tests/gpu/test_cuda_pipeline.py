"""The whole job on a CUDA device."""

from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


def test_digits_quantize_on_cuda_as_well_as_on_the_cpu(digits_teacher: Any, tmp_path: Path) -> None:
    from lrq_deploy.cli.job.pipeline import quantize
    from lrq_deploy.options import QuantizeOptions

    results = {
        device: quantize(
            QuantizeOptions(
                model=digits_teacher.model_file,
                images=digits_teacher.image_folder,
                out=tmp_path / device,
                recipe="fast",
                device=device,
            )
        )
        for device in ("cpu", "cuda")
    }
    on_cpu, on_cuda = (results[device].student_accuracy for device in ("cpu", "cuda"))
    assert on_cpu is not None
    assert on_cuda is not None
    assert abs(on_cpu - on_cuda) <= 2.0
    assert results["cuda"].parity_top1 >= 99.9
    assert results["cpu"].peak_cuda_memory_mib is None
    peak = results["cuda"].peak_cuda_memory_mib
    assert peak is not None
    assert peak > 0
