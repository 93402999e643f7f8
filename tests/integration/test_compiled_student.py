"""A compiled student learns what the other does, and says what it lacks."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from support.contexts import ON_CPU
from support.resumed_run import NETWORK, run
from support.stages import SETTINGS, student_stage, tensors_of

from lrq_deploy.cli.job.pipeline import quantize
from lrq_deploy.errors import OptionError
from lrq_deploy.method.fitting import student_training
from lrq_deploy.method.fitting.student_training import StudentTraining
from lrq_deploy.method.steps.loop import run_stage
from lrq_deploy.options import QuantizeOptions

pytestmark = pytest.mark.integration

CPU = torch.device("cpu")
EXACT = replace(SETTINGS, reduced_precision=False)
COMPILED = replace(EXACT, compiled=True)
AGREEMENT = 0.02
"""Relative; fused kernels move single values that lie beside a rounding tie."""


def test_it_learns_what_the_other_does() -> None:
    stage, other = student_stage(CPU, COMPILED), student_stage(CPU, EXACT)
    found, wanted = run_stage(stage, ON_CPU), run_stage(other, ON_CPU)
    assert found == pytest.approx(wanted, rel=AGREEMENT)
    before = tensors_of(student_stage(CPU, EXACT).watched.state_dict())
    pairs = zip(before, *(tensors_of(s.watched.state_dict()) for s in (stage, other)), strict=True)
    moved = apart = 0.0
    for start, mine, theirs in pairs:
        moved += float((theirs - start).square().sum())
        apart += float((mine - theirs).square().sum())
    assert moved > 0
    assert apart < AGREEMENT * moved
    again = student_stage(CPU, COMPILED)
    run_stage(again, ON_CPU)
    for mine, theirs in zip(
        tensors_of(again.state_dict()), tensors_of(stage.state_dict()), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_kernels_are_compiled_once_and_not_for_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def kept(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    fuse = partial(torch.compile, backend=kept)
    monkeypatch.setattr(torch, "compile", lambda *a, mode, **named: fuse(*a, **named))
    run_stage(student_stage(CPU, COMPILED), ON_CPU)
    assert len(graphs) == 1
    stage = student_stage(CPU, COMPILED)
    stage.pieces.count = 2
    run_stage(stage, ON_CPU)
    assert len(graphs) == 1


def test_without_a_compiler_the_remedy_is_to_leave_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", (None, "/no/compiler"))
    monkeypatch.setattr(config, "force_disable_caches", True)
    torch._dynamo.reset()
    with pytest.raises(OptionError, match="No working C") as caught:
        run_stage(student_stage(CPU, COMPILED), ON_CPU)
    assert caught.value.remedy.endswith("leave --compile out")


def test_the_option_reaches_the_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []

    def plain(network: torch.nn.Module, device: torch.device) -> torch.nn.Module:
        asked.append(device)
        return network

    monkeypatch.setattr(student_training, "compiled", plain)
    run(tmp_path / "plain")
    assert asked == []
    run(tmp_path / "compiled", compile=True)
    assert asked == [CPU]


def test_a_method_without_a_student_to_compile_is_refused(tmp_path: Path) -> None:
    about = {"input_shape": (3, 12, 12), "device": "cpu", "method_name": "calibrate"}
    options = QuantizeOptions(Path("tiny"), tmp_path / "out", compile=True, **about)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="got --method calibrate, which does not"):
        quantize(options, network=NETWORK)
    assert list(tmp_path.iterdir()) == []


def test_off_is_the_default_and_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(student_training, "compiled", lambda *_: pytest.fail("compiles"))
    stage = student_stage(CPU, EXACT)
    assert isinstance(stage, StudentTraining)
    run_stage(stage, ON_CPU)
