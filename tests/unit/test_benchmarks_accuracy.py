"""``benchmarks/accuracy.py``: the grid, what it resumes, and its table."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.unit

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "accuracy.py"


@pytest.fixture
def accuracy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("accuracy_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


class Commands:
    """Stands for the processes of the cells; all others answer the same."""

    def __init__(self) -> None:
        self.runs: list[list[str]] = []

    def run(self, command: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":
        if command[0] != sys.executable:
            return subprocess.CompletedProcess(command, 0, "abc1234\n", "")
        self.runs.append(command)
        result = {
            "teacher_accuracy": 92.0,
            "student_accuracy": 90.0 if "--seed=0" in command else 91.0,
            "agreement": 95.0,
            "seconds": 10.0,
            "peak_memory_mib": 1000.0,
        }
        return subprocess.CompletedProcess(command, 0, json.dumps(result), "")


def test_the_grid_has_methods_and_is_resumed(
    accuracy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands()
    monkeypatch.setattr(accuracy.subprocess, "run", commands.run)
    words = ["--networks=resnet20", "--settings=w4a4", "--seeds=0,1", f"--out={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["accuracy.py", *words, "--methods=lrq,gdfq"])
    accuracy.main()
    methods = [word for run in commands.runs for word in run if word.startswith("--method=")]
    assert methods == ["--method=lrq"] * 2 + ["--method=gdfq"] * 2
    names = {path.name for path in (tmp_path / "cells").iterdir()}
    assert "resnet20-w4a4-balanced-seed0.json" in names  # the name of before there were methods
    assert "resnet20-w4a4-balanced-gdfq-seed1.json" in names
    rows = (tmp_path / "accuracy.md").read_text().splitlines()
    assert len(rows[0].split("|")) == len(rows[1].split("|")) == len(rows[2].split("|"))
    assert "| gdfq | 0 1 | 92.00 +- 0.00 | 90.50 +- 0.71 | 1.50 +- 0.71 |" in rows[2]

    monkeypatch.setattr(sys, "argv", ["accuracy.py", *words, "--method", "lrq,gdfq,zeroq"])
    accuracy.main()
    assert len(commands.runs) == 6
    assert len(json.loads((tmp_path / "accuracy.json").read_text())) == 6
