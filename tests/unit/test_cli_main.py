"""The program as a process: start-up cost, exit codes, what goes where."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

from lrq_deploy import __version__
from lrq_deploy.cli import main
from lrq_deploy.errors import (
    BoundError,
    CheckpointError,
    DeviceMemoryError,
    DivergenceError,
    ExportError,
    LrqError,
    OptionError,
    OutputError,
    ParityError,
    RankLostError,
    WriteError,
)

pytestmark = pytest.mark.unit

# The aim is 0.5 s on a quiet machine; it is about 0.1 s, and the rest is slack for a busy one.
HELP_CPU_SECONDS = 0.5
HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "torchvision", "PIL", "sklearn", "rich")


def run_program(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lrq_deploy", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **variables},
    )


@pytest.mark.parametrize(
    "command", ["", "quantize", "demo", "inspect", "plan", "validate", "bench", "sensitivity"]
)
def test_help_loads_nothing_heavy(command: str) -> None:
    code = (
        "import sys\n"
        "from lrq_deploy.cli.main import run\n"
        "try:\n    run()\n"
        f"finally:\n    print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)\n"
    )
    arguments = [sys.executable, "-c", code, *command.split(), "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Usage: lrq-deploy" in done.stdout
    assert done.stderr.strip() == "[]"


def test_help_is_quick() -> None:
    def cpu_seconds() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    took = []
    for _ in range(3):
        start = cpu_seconds()
        assert run_program("--help").returncode == 0
        took.append(cpu_seconds() - start)
    assert min(took) < HELP_CPU_SECONDS


def test_version() -> None:
    assert run_program("--version").stdout == f"lrq-deploy {__version__}\n"


@pytest.mark.parametrize(("local_rank", "lines"), [("0", 3), ("1", 0)])
def test_one_process_of_each_machine_tells_what_keeps_it_from_the_others(
    tmp_path: Path, local_rank: str, lines: int
) -> None:
    variables = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": local_rank}
    done = run_program("quantize", "x.pt", "--bits", "1", "--out", str(tmp_path), **variables)
    assert done.returncode == 2
    told = done.stderr.splitlines()
    assert len(told) == lines
    assert all(line.startswith("rank 1: error: ") for line in told[:1])


def test_work_that_is_not_shared_is_refused_once_per_machine(tmp_path: Path) -> None:
    for rank, lines in (("0", 3), ("1", 0)):
        variables = {"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": rank}
        done = run_program("sensitivity", "x.pt", "--out", str(tmp_path), **variables)
        assert done.returncode == main.EXIT_INPUT
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == lines


def test_bad_input_is_three_lines_on_stderr_and_exit_code_2(tmp_path: Path) -> None:
    done = run_program("quantize", "x.pt", "--bits", "1", "--out", str(tmp_path / "out"))
    assert done.returncode == main.EXIT_INPUT
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: --bits must be in 2..8",
        "  received: 1",
        "  remedy: pass a width from 2 to 8",
    ]
    assert not (tmp_path / "out").exists()


def test_an_error_steers_no_terminal() -> None:
    done = run_program("validate", "no\x1b[2J\x9bsuch\x07bundle")
    assert done.returncode == main.EXIT_INPUT
    assert "no?[2J?such?bundle" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["inspect", "--quiet", "{}"]])
def test_a_reader_that_goes_away_is_no_fault(arguments: list[str], tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"x.weight": torch.zeros(2, 3)}, path)
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "lrq_deploy", *(word.format(path) for word in arguments)]
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (main.EXIT_PIPE, b"")


@pytest.mark.parametrize("arguments", [["frobnicate"], ["quantize"], ["quantize", "x", "--bit"]])
def test_usage_errors_are_exit_code_2(arguments: list[str]) -> None:
    done = run_program(*arguments)
    assert done.returncode == main.EXIT_INPUT
    assert "Error: " in done.stderr


def test_a_demo_leaves_a_foreign_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    done = run_program("demo", "--out", str(tmp_path))
    assert done.returncode == main.EXIT_INPUT
    assert "must be a new or empty folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_demo_below_a_file_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    done = run_program("demo", "--out", str(tmp_path / "thesis.txt" / "demo"))
    assert done.returncode == main.EXIT_INPUT
    assert "received: " in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (CheckpointError("a rule", "a thing", "a remedy"), 2, "error: a rule\n  received: a thing"),
        (ParityError("a rule", "a thing", "a remedy"), 3, "error: a rule\n  received: a thing"),
        (WriteError("a rule", "a thing", "a remedy"), 4, "error: a rule\n  received: a thing"),
        (OSError(errno.ENOSPC, "No room", "/tmp/x"), 4, "received: [Errno 28] No room: '/tmp/x'"),
        (OSError(errno.EIO, "No luck"), 1, "unexpected OSError: [Errno 5] No luck"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("by nought"), 1, "unexpected ZeroDivisionError: by nought"),
        (
            OSError(errno.ENOSPC, "stdout is full"),
            4,
            "that of TMPDIR and of stdout too\n  received: [",
        ),
        (OSError(errno.EIO, "worn"), 1, "unexpected OSError: [Errno 5] worn"),
    ],
)
@pytest.mark.parametrize("debug", ["0", "1"])
def test_errors_become_exit_codes(
    error: BaseException,
    code: int,
    shown: str,
    debug: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise error

    failing = typer.Typer()
    failing.command()(fail)
    monkeypatch.setattr(main, "app", failing)
    monkeypatch.setattr(sys, "argv", ["lrq-deploy"])
    monkeypatch.setenv("LRQ_DEBUG", debug)
    with pytest.raises(SystemExit) as caught:
        main.run()
    written = capsys.readouterr()
    assert caught.value.code == code
    assert written.out == ""
    assert shown in written.err
    assert ("Traceback" in written.err) == (debug == "1" and code != 130)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (CheckpointError, 2),
        (ExportError, 2),
        (OptionError, 2),
        (OutputError, 2),
        (BoundError, 3),
        (ParityError, 3),
        (DeviceMemoryError, 4),
        (DivergenceError, 4),
        (RankLostError, 4),
        (WriteError, 4),
    ],
)
def test_the_code_says_what_kind_of_end_it_is(kind: type[LrqError], code: int) -> None:
    assert main.exit_code(kind("a rule", "a thing", "a remedy")) == code


def test_the_codes_are_those_of_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "quantize.md").read_text(encoding="utf-8")
    codes = (main.EXIT_FAULT, main.EXIT_INPUT, main.EXIT_CHECK, main.EXIT_RUN)
    assert codes == (1, 2, 3, 4)
    assert all(f"| {code} | " in page for code in (*codes, main.EXIT_PIPE))
