"""A runtime that the project does not know: one class in the registry is all that it takes."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from support.tiny_run import tiny

from lrq_deploy.cli import main
from lrq_deploy.cli.commands.demo_network import TrainedDigits
from lrq_deploy.cli.job.validation import ValidateOptions, validate_bundle
from lrq_deploy.errors import OptionError
from lrq_deploy.export.dialects.tensorrt import TensorRTTarget
from lrq_deploy.export.targets import Target, TargetRegistry, targets

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Npu(TensorRTTarget):
    """Another one of int8; ``off`` makes a scale of the last layer wrong by such a share."""

    name: str = "npu"
    title: str = "NPU"
    file_name: str = "model.npu.onnx"
    off: float = 0.0

    def lower(self, model: ir.Model) -> None:
        super().lower(model)
        weight = [n for n in model.graph if str(n.name).endswith(".weight.DQ")][-1].inputs[1]
        assert weight is not None
        assert weight.const_value is not None
        scale = weight.const_value.numpy() * np.float32(1 + self.off)
        weight.const_value = ir.tensor(scale, name=weight.name)


def register(monkeypatch: pytest.MonkeyPatch, target: Target) -> None:
    original = TargetRegistry.__init__

    def with_it(self: TargetRegistry, entries: Iterable[Target] = ()) -> None:
        original(self, [*entries, target])

    monkeypatch.setattr(TargetRegistry, "__init__", with_it)


@pytest.mark.parametrize("off", [0.0, 0.5])
def test_its_graph_is_written_and_judged(
    off: float, digits_teacher: TrainedDigits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, Npu(off=off))
    run = tiny(digits_teacher, tmp_path / "bundle", target="npu")
    metrics = run.bundle.manifest.metrics
    assert metrics["targets"]["written"] == ["npu", "onnxruntime"]
    rung = metrics["ladder"][-1]
    assert (rung["name"], rung["passes"]) == ("npu-dialect", not off)
    assert ("look at NPU dialect with validate" in run.result.verdict) == bool(off)
    found = validate_bundle(ValidateOptions(run.bundle.path, count=40, reference_count=1))
    assert [rung.name for rung in found.ladder.failures] == (["npu-dialect"] if off else [])


def test_a_plan_speaks_of_it(
    digits_teacher: TrainedDigits,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    register(monkeypatch, Npu())
    words = ["plan", str(digits_teacher.model_file), "--mean=0", "--std=1", "--json"]
    monkeypatch.setattr("sys.argv", ["lrq-deploy", *words, "--target", "npu"])
    with pytest.raises(SystemExit):
        main.run()
    assert sorted(json.loads(capsys.readouterr().out)["advice"]) == ["npu", "onnxruntime"]


@pytest.mark.parametrize("changes", [{"name": "tensorrt"}, {"file_name": "model.onnx"}])
def test_two_do_not_share_a_name_or_a_file(
    changes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, Npu(**changes))  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="must be unique"):
        targets()
