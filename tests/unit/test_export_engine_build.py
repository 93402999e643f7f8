"""What a build does with the words of TensorRT, with a stand-in for its modules."""

import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal
from unittest.mock import MagicMock

import pytest
from support.bundles import bundle_of
from support.frozen_graphs import residual_student

from lrq_deploy.errors import ExportError, OptionError
from lrq_deploy.export.engine import build as engine_build
from lrq_deploy.export.engine import from_bundle as engine
from lrq_deploy.export.engine import gpu_facts
from lrq_deploy.export.engine.build import build_engine, load_builder, logger_of, start
from lrq_deploy.export.engine.file import read_engine
from lrq_deploy.export.engine.from_bundle import build_from_bundle
from lrq_deploy.export.engine.gpu_facts import GpuFacts
from lrq_deploy.export.engine.options import EngineKind, EngineOptions

pytestmark = pytest.mark.unit

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
SHAPE = (3, 8, 8)
# TensorRT for RTX 1.7 of resnet18 with 1 MiB, and what TensorRT 10 says of the same.
SHORT_OF_SPACE = "Error Code 2: OutOfMemory (Requested size was 12777888 bytes.)"
NO_TACTIC = "Error Code 10: Internal Error (Could not find any implementation for node layers.l1.)"


class Logger:
    """The base class that the modules give for loggers."""


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """A module whose builds succeed."""
    monkeypatch.setattr(engine_build, "_logs", {})
    module = MagicMock(ILogger=Logger, __version__="11.4.0")
    module.__name__ = "tensorrt"
    builder = module.Builder.return_value
    builder.create_builder_config.return_value.add_optimization_profile.return_value = 0
    builder.build_serialized_network.return_value = b"engine"
    return module


def says(trt: MagicMock, *lines: tuple[str, str], then: object = None) -> Callable[..., object]:
    """A function of the module that logs and gives ``then``."""

    def call(*_: object) -> object:
        for severity, text in lines:
            logger_of(trt).log(f"Severity.{severity}", text)
        return then

    return call


def test_requirements_are_those_of_the_extras() -> None:
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    for kind, (_, requirement) in engine_build._MODULES.items():
        assert extras[kind] == [requirement]
    (dev,) = (x for x in extras["dev"] if x.startswith("tensorrt-rtx"))
    assert dev.partition(";")[0] == extras["tensorrt-rtx"][0]


@pytest.mark.parametrize(
    ("kind", "version"), [("tensorrt-rtx", "1.6.1.120"), ("tensorrt", "10.2.0.post1")]
)
def test_an_older_module_is_refused_with_the_line_that_updates_it(
    kind: EngineKind, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_build, "cuda_device_count", lambda: 1)
    module, requirement = engine_build._MODULES[kind]
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(__version__=version))
    with pytest.raises(OptionError) as caught:
        load_builder(kind, None)
    assert caught.value.received == f"{module} {version}"
    assert f'update it with python -m pip install "{requirement}"' in caught.value.remedy
    newer = SimpleNamespace(__version__={"tensorrt-rtx": "1.10.0", "tensorrt": "10.3.0"}[kind])
    monkeypatch.setitem(sys.modules, module, newer)
    assert load_builder(kind, None) is newer


def test_the_install_line_tells_packages_by_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_build, "cuda_device_count", lambda: 0)
    with pytest.raises(OptionError, match="driver of CUDA 13; tensorrt-cu12 is for those of CUDA"):
        load_builder("tensorrt", None)


@pytest.mark.parametrize("part", ["Builder", "Runtime"])
@pytest.mark.parametrize("said", [[("WARNING", "CUDA initialization failure with error: 35.")], []])
def test_a_driver_that_is_too_old_is_said(
    trt: MagicMock, part: Literal["Builder", "Runtime"], said: list[tuple[str, str]]
) -> None:
    def refuse(*_: object) -> None:
        says(trt, *said)()
        raise TypeError("pybind11::init(): factory function returned nullptr")

    setattr(trt, part, refuse)
    with pytest.raises(OptionError, match="pip install tensorrt-cu12") as caught:
        start(trt, part)
    assert caught.value.received == (said[0][1] if said else str(caught.value.__cause__))


def test_verbose_lines_live_as_long_as_a_build(trt: MagicMock) -> None:
    heard = [("VERBOSE", "Layers: ..."), ("ERROR", "a tactic that was left out")]
    build = trt.Builder.return_value.build_serialized_network
    build.side_effect = says(trt, *heard, then=b"engine")
    # An error that is logged on the way to an engine does not stop it.
    assert build_engine(trt, b"", SHAPE, EngineOptions("tensorrt")).log == tuple(
        text for _, text in heard
    )
    assert logger_of(trt).lines == []
    says(trt, ("VERBOSE", "of a run"), ("WARNING", "of a run"))()
    assert logger_of(trt).lines == [("WARNING", "of a run")]


@pytest.mark.parametrize("fp16_rest", [False, True])
def test_floats_are_not_rounded_to_tf32_unless_they_are_halved(
    trt: MagicMock, fp16_rest: bool
) -> None:
    build_engine(trt, b"", SHAPE, EngineOptions("tensorrt", fp16_rest=fp16_rest))
    clear = trt.Builder.return_value.create_builder_config.return_value.clear_flag
    assert [call.args for call in clear.call_args_list] == (
        [] if fp16_rest else [(trt.BuilderFlag.TF32,)]
    )


@pytest.mark.parametrize("fp16_rest", [False, True])
def test_a_record_states_the_gpu_and_how_floats_are_rounded(
    trt: MagicMock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fp16_rest: bool
) -> None:
    facts = GpuFacts("NVIDIA A10", 86, {"cuda": "13.0", "driver": "580.65.06"})
    monkeypatch.setattr(gpu_facts, "gpu_facts", lambda: facts)
    monkeypatch.setattr(engine, "load_builder", lambda *_: trt)
    bundle = bundle_of(residual_student(4, 4, blocks=(1,)), tmp_path / "net")
    options = EngineOptions("tensorrt", fp16_rest=fp16_rest)
    result = build_from_bundle(bundle, options, tmp_path / "net.engine")
    record = read_engine(result.path)[1]
    assert record == result.record
    assert (record.gpu, record.compute_capabilities) == ("NVIDIA A10", (86,))
    assert record.versions["driver"] == "580.65.06"
    assert record.tf32 is fp16_rest


def test_a_refused_profile_is_an_error(trt: MagicMock) -> None:
    config = trt.Builder.return_value.create_builder_config.return_value
    config.add_optimization_profile.side_effect = says(trt, ("ERROR", "bad shapes"), then=-1)
    with pytest.raises(ExportError, match="got bad shapes"):
        build_engine(trt, b"", SHAPE, EngineOptions("tensorrt"))


@pytest.mark.parametrize(
    ("text", "workspace", "gpus", "rule", "remedy"),
    [
        (SHORT_OF_SPACE, 1, 0, "TensorRT must build", "pass a larger --workspace than 1, or none"),
        (SHORT_OF_SPACE, 1, 1, "TensorRT must build", "pass a larger --workspace than 1, or none"),
        (NO_TACTIC, 1, 1, "TensorRT must build", "pass a larger --workspace than 1, or none"),
        ("insufficient workspace", 1, 1, "TensorRT must build", "pass a larger --workspace than 1"),
        (NO_TACTIC, None, 1, "TensorRT must build", "report it"),
        (SHORT_OF_SPACE, None, 0, "TensorRT must build", "pass a smaller largest batch than 8"),
        (SHORT_OF_SPACE, None, 1, "the build must fit the memory of the GPU", "pass a smaller"),
    ],
)
def test_a_failed_build_names_what_would_help(
    trt: MagicMock,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    workspace: int | None,
    gpus: int,
    rule: str,
    remedy: str,
) -> None:
    monkeypatch.setattr(engine_build, "cuda_device_count", lambda: gpus)
    build: Any = trt.Builder.return_value.build_serialized_network
    build.side_effect = says(trt, ("ERROR", text))
    with pytest.raises(ExportError) as caught:
        build_engine(trt, b"", SHAPE, EngineOptions("tensorrt", workspace_mib=workspace))
    assert caught.value.rule.startswith(rule)
    assert caught.value.received == text
    assert caught.value.remedy.startswith(remedy)
