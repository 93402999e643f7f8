"""``benchmarks/accuracy.py``: the grid, what it resumes, and its table."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.benchmark_scripts import benchmark_script

pytestmark = pytest.mark.unit


@pytest.fixture
def accuracy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return benchmark_script("accuracy", monkeypatch)


class Commands:
    """Stands for the processes of the cells; all others answer the same."""

    def __init__(self) -> None:
        self.runs: list[list[str]] = []

    def run(self, command: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":
        if command[0] != sys.executable:
            return subprocess.CompletedProcess(command, 0, "abc1234\n", "")
        self.runs.append(command)
        (out,) = (Path(word.removeprefix("--out=")) for word in command if word[:6] == "--out=")
        out.mkdir()
        (out / "run").write_text(str(len(self.runs)))
        result = {
            "teacher_accuracy": 92.0,
            "student_accuracy": 90.0 if "--seed=0" in command else 91.0,
            "agreement": 95.0,
            "seconds": 10.0,
            "peak_memory_mib": 1000.0,
            "bundle_path": str(out),
        }
        return subprocess.CompletedProcess(command, 0, json.dumps(result), "")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--networks=resnet20,vgg16", "one of resnet20, .*; got 'vgg16'"),
        ("--settings=w4a4,w5", "one of w8a8, .*; got 'w5'"),
        ("--recipes=quick", "one of fast, .*; got 'quick'"),
        ("--methods=lrq,other", "one of lrq, .*; got 'other'"),
        ("--seeds=0,a", "invalid seeds value: '0,a'"),
    ],
)
def test_what_is_not_known_is_a_usage_error(
    accuracy: ModuleType,
    word: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["accuracy.py", "--list", word])
    with pytest.raises(SystemExit) as ended:
        accuracy.main()
    assert ended.value.code == 2
    assert re.search(said, capsys.readouterr().err)


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
    document = json.loads((tmp_path / "accuracy.json").read_text())
    assert (document["schema_version"], len(document["cells"])) == (1, 6)
    assert [row["method"] for row in document["rows"]] == ["gdfq", "lrq", "zeroq"]
    first = document["rows"][0]
    assert first["drop"] == {"mean": 1.5, "deviation": pytest.approx(0.5**0.5)}
    assert (first["seeds"], first["float_accuracy"]["mean"]) == ([0, 1], 92)


@pytest.fixture
def commands(accuracy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Commands:
    found = Commands()
    monkeypatch.setattr(accuracy.subprocess, "run", found.run)
    return found


def run(accuracy: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["accuracy.py", "--networks=resnet20", *words])
    accuracy.main()


def bundle_of(record: Path) -> Path:
    return Path(json.loads(record.read_text())["result"]["bundle_path"])


def test_an_array_of_jobs_runs_each_cell_once(
    accuracy: ModuleType,
    commands: Commands,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--seeds=0,1", f"--out={tmp_path / 'grid'}"]
    run(accuracy, monkeypatch, *words, "--list")
    names = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert len(names) == 4
    for index in (2, 0, 3, 1, 2):
        run(accuracy, monkeypatch, *words, f"--cell-index={index}")
    assert len(commands.runs) == 4
    assert not (tmp_path / "grid" / "accuracy.md").exists()
    records = sorted((tmp_path / "grid" / "cells").iterdir())
    assert [path.name for path in records] == sorted(f"{name}.json" for name in names)
    bundles = {path.name for path in (tmp_path / "grid" / "bundles").iterdir()}
    assert bundles == {bundle_of(record).name for record in records} == set(names)
    with pytest.raises(SystemExit, match=r"0\.\.3, got 4"):
        run(accuracy, monkeypatch, *words, "--cell-index=4")


def test_of_two_machines_on_one_cell_the_first_result_stays(
    accuracy: ModuleType, commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(command: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
        monkeypatch.setattr(accuracy.subprocess, "run", commands.run)
        done = commands.run(command, **options)
        # Another machine begins the same cell meanwhile, and ends it before this one.
        run(accuracy, monkeypatch, f"--out={tmp_path}", "--cell-index=0")
        return done

    monkeypatch.setattr(accuracy.subprocess, "run", slow)
    run(accuracy, monkeypatch, f"--out={tmp_path}", "--cell-index=0")
    assert len(commands.runs) == 2
    (record,) = (tmp_path / "cells").iterdir()
    (bundle,) = (tmp_path / "bundles").iterdir()
    assert bundle_of(record) == bundle
    assert (bundle / "run").read_text() == "2"


def test_folders_are_merged_into_one_table(
    accuracy: ModuleType,
    commands: Commands,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one, other, out = (tmp_path / name for name in ("one", "other", "all"))
    run(accuracy, monkeypatch, "--settings=w4a4", "--seeds=0", f"--out={one}")
    run(accuracy, monkeypatch, "--settings=w4a4", "--seeds=0,1", f"--out={other}")
    assert len(commands.runs) == 3
    capsys.readouterr()
    run(accuracy, monkeypatch, f"--out={out}", "--merge", str(one), str(other))
    told = capsys.readouterr()
    assert "| 0 1 | 92.00 +- 0.00 | 90.50 +- 0.71 |" in told.out
    assert told.err.endswith("seed0.json: there already, left out\n")
    assert (out / "accuracy.md").read_text() == told.out.removesuffix("\n")
    kept = json.loads((out / "cells" / "resnet20-w4a4-balanced-seed0.json").read_text())
    assert kept["result"]["bundle_path"].startswith(str(one))
    with pytest.raises(SystemExit, match="it has no cells"):
        run(accuracy, monkeypatch, f"--out={out}", "--merge", str(tmp_path / "none"))
    before = sorted(out.rglob("*.json"))
    record = next(other.rglob("*.json"))
    whole = record.read_text()
    for name, text in ((record.name, whole[:50]), ("copy.json", whole), ("list.json", "[1]")):
        damaged = tmp_path / name / "cells" / name
        damaged.parent.mkdir(parents=True)
        damaged.write_text(text)
        with pytest.raises(SystemExit, match="must hold the whole result of the cell"):
            run(accuracy, monkeypatch, f"--out={out}", "--merge", str(tmp_path / name))
    assert sorted(out.rglob("*.json")) == before
