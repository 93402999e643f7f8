"""What may be asked of an engine, and the equivalent command."""

import math
import shlex
from pathlib import Path

import pytest
from support.bundles import bundle_of
from support.frozen_graphs import residual_student
from typer.testing import CliRunner

from lrq_deploy.cli.main import app
from lrq_deploy.errors import OptionError
from lrq_deploy.export.engine import build as engine_build
from lrq_deploy.export.engine.build import cuda_device_count, load_builder
from lrq_deploy.export.engine.from_bundle import build_from_bundle
from lrq_deploy.export.engine.options import (
    BatchProfile,
    EngineOptions,
    check_batch,
    trtexec_command,
)

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
    with pytest.raises(OptionError, match=r"1 MiB or more, and at most 8796093022207; got 9999"):
        EngineOptions("tensorrt", workspace_mib=99999999999999)
    assert EngineOptions("tensorrt", workspace_mib=3).workspace_bytes == 3 * 1024 * 1024
    largest = EngineOptions("tensorrt", workspace_mib=8796093022207).workspace_bytes
    assert largest is not None
    assert largest < 2**63 <= largest + 1024 * 1024


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 8, 8), (3, 224, 224)])
def test_a_batch_holds_as_many_numbers_as_a_runtime_counts(shape: tuple[int, int, int]) -> None:
    most = (2**31 - 1) // math.prod(shape)
    check_batch(most, shape)
    for largest in (most + 1, 99999999999999):
        with pytest.raises(OptionError, match=f"at most 2147483647 numbers, {most} images"):
            check_batch(largest, shape)


def test_a_build_for_too_large_a_batch_is_refused_at_once(tmp_path: Path) -> None:
    bundle = bundle_of(residual_student(4, 4, blocks=(1,)), tmp_path / "net")
    options = EngineOptions("tensorrt-rtx", batch=BatchProfile(1, 1, 99999999999999))
    with pytest.raises(OptionError, match="at most 2147483647 numbers"):
        build_from_bundle(bundle, options, tmp_path / "net.engine")
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_trtexec_command_states_the_same_engine() -> None:
    options = EngineOptions("tensorrt", batch=BatchProfile(1, 4, 16), workspace_mib=512)
    graph = Path("a folder/model.tensorrt.onnx")
    words = shlex.split(trtexec_command(graph, Path("x.engine"), (3, 32, 48), options))
    assert words == [
        "trtexec",
        "--onnx=a folder/model.tensorrt.onnx",
        "--saveEngine=x.engine",
        "--stronglyTyped",
        "--noTF32",
        "--minShapes=input:1x3x32x48",
        "--optShapes=input:4x3x32x48",
        "--maxShapes=input:16x3x32x48",
        "--memPoolSize=workspace:512",
    ]


@pytest.mark.parametrize("gpus", [0, 1])
def test_the_rest_in_fp16_needs_what_for_device_writes(
    monkeypatch: pytest.MonkeyPatch, gpus: int
) -> None:
    options = EngineOptions("tensorrt", fp16_rest=True)
    command = trtexec_command(Path("m"), Path("x"), (3, 32, 48), options)
    missing = ("no_such_builder", "no-such-builder>=1")
    monkeypatch.setitem(engine_build._MODULES, "tensorrt", missing)
    monkeypatch.setattr(engine_build, "cuda_device_count", lambda: gpus)
    with pytest.raises(OptionError) as caught:
        load_builder("tensorrt", command)
    text = "with TensorRT's own tool: the build.sh that --for-device DIR writes here"
    assert text in caught.value.remedy


def test_gpus_without_a_target_of_rtx_are_named() -> None:
    with pytest.raises(OptionError, match="compute capability 87, Jetson Orin") as caught:
        EngineOptions("tensorrt-rtx", sms=(86, 87))
    assert "--engine tensorrt --for-device DIR" in caught.value.remedy
    with pytest.raises(OptionError, match="compute capability 90, H100") as caught:
        EngineOptions("tensorrt-rtx", sms=(90,))
    assert "--engine tensorrt on its machine" in caught.value.remedy


@pytest.mark.parametrize(
    ("flags", "rule", "remedy"),
    [
        (["--sm", "8.6"], "--sm must be whole numbers", "pass --sm 86"),
        (["--sm", "8.6,12.0"], "--sm must be whole numbers", "pass --sm 86,120"),
        (["--sm", "sm_89"], "--sm must be whole numbers", "pass --sm 89"),
        (["--sm", "ada"], "--sm must be whole numbers", "pass --sm 86,89"),
        (["--batch", "1,8"], "--batch must be one number or MIN,OPT,MAX", "--batch 8"),
        (["--batch", "x"], "--batch must be whole numbers", "pass --batch 1,1,8"),
    ],
)
def test_numbers_are_refused_by_the_name_of_their_option(
    tmp_path: Path, flags: list[str], rule: str, remedy: str
) -> None:
    flags = ["build", str(tmp_path), "--engine", "tensorrt-rtx", *flags]
    error = CliRunner().invoke(app, flags).exception
    assert isinstance(error, OptionError)
    assert error.rule.startswith(rule)
    assert remedy in error.remedy


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
