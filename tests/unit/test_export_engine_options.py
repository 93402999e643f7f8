"""What may be asked of an engine, and the equivalent command."""

import shlex
from pathlib import Path

import pytest

from lrq_deploy.errors import OptionError
from lrq_deploy.export import engine_build
from lrq_deploy.export.engine_build import cuda_device_count, load_builder
from lrq_deploy.export.engine_options import BatchProfile, EngineOptions, trtexec_command

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("sizes", [(0, 1, 8), (2, 1, 8), (1, 8, 4)])
def test_batch_sizes_must_grow(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(OptionError, match="1 <= MIN <= OPT <= MAX"):
        BatchProfile(*sizes)


def test_compute_capabilities_belong_to_rtx() -> None:
    with pytest.raises(OptionError, match="GPU of this machine only"):
        EngineOptions("tensorrt", sms=(86,))
    with pytest.raises(OptionError, match="once"):
        EngineOptions("tensorrt-rtx", sms=(86, 86))
    assert EngineOptions("tensorrt").compute_capabilities == ()
    assert EngineOptions("tensorrt-rtx").compute_capabilities == (86, 89, 120)
    assert EngineOptions("tensorrt-rtx", sms=(75,)).compute_capabilities == (75,)


def test_unknown_engine_and_workspace() -> None:
    with pytest.raises(OptionError, match="tensorrt, tensorrt-rtx"):
        EngineOptions("openvino")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="1 MiB or more"):
        EngineOptions("tensorrt", workspace_mib=0)
    assert EngineOptions("tensorrt", workspace_mib=3).workspace_bytes == 3 * 1024 * 1024


def test_trtexec_command_states_the_same_engine() -> None:
    options = EngineOptions("tensorrt", batch=BatchProfile(1, 4, 16), workspace_mib=512)
    graph = Path("a folder/model.tensorrt.onnx")
    words = shlex.split(trtexec_command(graph, Path("x.engine"), (3, 32, 48), options))
    assert words == [
        "trtexec",
        "--onnx=a folder/model.tensorrt.onnx",
        "--saveEngine=x.engine",
        "--stronglyTyped",
        "--minShapes=input:1x3x32x48",
        "--optShapes=input:4x3x32x48",
        "--maxShapes=input:16x3x32x48",
        "--memPoolSize=workspace:512",
    ]


@pytest.mark.skipif(cuda_device_count() > 0, reason="this machine has a GPU")
def test_tensorrt_without_a_gpu_says_so_with_both_ways_out() -> None:
    with pytest.raises(OptionError) as caught:
        load_builder("tensorrt", "trtexec --onnx=m")
    text = str(caught.value)
    assert "no GPU" in text
    for way in ('pip install "tensorrt>=10.3"', "trtexec --onnx=m", "--engine tensorrt-rtx"):
        assert way in text


def test_a_missing_module_comes_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = ("no_such_builder", "no-such-builder>=1")
    monkeypatch.setitem(engine_build._MODULES, "tensorrt", missing)
    monkeypatch.setattr(engine_build, "cuda_device_count", lambda: 1)
    with pytest.raises(OptionError) as caught:
        load_builder("tensorrt", "trtexec --onnx=m")
    assert 'install it with python -m pip install "no-such-builder>=1"' in caught.value.remedy
    assert "trtexec --onnx=m" in caught.value.remedy
