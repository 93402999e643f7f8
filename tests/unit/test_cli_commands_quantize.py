"""Running and reporting: JSON alone on stdout, progress where it belongs, interruption."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import typer
from support.quantize_results import RESULT

from lrq_deploy.cli import main
from lrq_deploy.cli.commands.quantize import run_and_report
from lrq_deploy.cli.flags.quantize_flags import QuantizeFlags
from lrq_deploy.cli.job.result import QuantizeResult
from lrq_deploy.errors import BoundError
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.progress import ProgressCallback, StageProgress
from lrq_deploy.resume.control import RunControl
from lrq_deploy.resume.run_folder import run_folder_of
from lrq_deploy.resume.stop_request import RunStopped

pytestmark = pytest.mark.unit

MODEL, FLAGS = Path("net.pt"), QuantizeFlags(bits=4)
NET = replace(
    RESULT,
    bundle_path=Path("runs/net-w4a4"),
    name="net",
    verdict="equal.",
    next_commands=(),
    labelled=False,
    teacher_accuracy=None,
    student_accuracy=None,
    drop_interval=None,
)


def chatty_pipeline(
    options: QuantizeOptions, progress: ProgressCallback, control: RunControl
) -> QuantizeResult:
    """Reports one stage, and writes to stdout as some exporters do."""
    StageProgress(progress, "export", 1).advance()
    sys.stdout.write("[exporter] all is well\n")
    return replace(NET, bundle_path=options.out)


@pytest.fixture(autouse=True)
def _pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("lrq_deploy.cli.job.pipeline")
    module.__dict__["quantize"] = chatty_pipeline
    monkeypatch.setitem(sys.modules, "lrq_deploy.cli.job.pipeline", module)


def test_json_has_stdout_for_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_and_report(MODEL, FLAGS, json=True, quiet=False).name == "net"
    written = capsys.readouterr()
    assert json.loads(written.out)["bundle_path"] == "runs/net-w4a4"
    assert written.err.splitlines() == [
        "export: 1 step",
        "export: done in 0.0 s",
        "[exporter] all is well",
    ]


def test_quiet_json_leaves_stderr_to_others(capsys: pytest.CaptureFixture[str]) -> None:
    run_and_report(MODEL, FLAGS, json=True, quiet=True)
    assert capsys.readouterr().err == "[exporter] all is well\n"


@pytest.mark.parametrize("quiet", [False, True])
def test_the_report_follows_the_progress(quiet: bool, capsys: pytest.CaptureFixture[str]) -> None:
    run_and_report(MODEL, FLAGS, json=False, quiet=quiet)
    written = capsys.readouterr().out
    report = written.index("SHIP IT: equal.")
    assert ("export: 1 step" in written[:report]) != quiet
    assert "export: 1 step" not in written[report:]


def test_the_report_ends_with_the_flags_of_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(options: QuantizeOptions, *_: object, **__: object) -> QuantizeResult:
        return replace(NET, bundle_path=options.out, ship=False, accurate=False)

    monkeypatch.setattr(sys.modules["lrq_deploy.cli.job.pipeline"], "quantize", failing)
    flags = replace(FLAGS, trust_pickle=True, method="gdfq", bench=False, seed=7)
    result = run_and_report(MODEL, flags, json=False, quiet=True)
    wanted = (
        "net.pt --bits 4 --act-bits 8 --method gdfq --seed 7 --out runs/net-w4a4-gdfq-a8 "
        "--trust-pickle --no-bench"
    )
    assert f"  lrq-deploy quantize {wanted}" in capsys.readouterr().out.splitlines()
    assert result.next_commands[2] == f"lrq-deploy quantize {wanted}"


@pytest.mark.parametrize("ship", [False, True])
@pytest.mark.parametrize("required", [False, True])
def test_a_required_verdict_fails_behind_the_report(
    ship: bool,
    required: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def judged(options: QuantizeOptions, *_: object, **__: object) -> QuantizeResult:
        return replace(NET, ship=ship, accurate=ship, headline="SHIP IT" if ship else "NO")

    monkeypatch.setattr(sys.modules["lrq_deploy.cli.job.pipeline"], "quantize", judged)
    flags = ["--require-ship"] if required else []
    monkeypatch.setattr(
        sys, "argv", ["lrq-deploy", "quantize", "net.pt", "--bits", "4", "--json", *flags]
    )
    with pytest.raises(SystemExit) as caught:
        main.run()
    written = capsys.readouterr()
    assert json.loads(written.out)["ship"] is ship
    failed = required and not ship
    assert caught.value.code == (main.exit_code(BoundError("", "", "")) if failed else 0)
    said = "error: --require-ship wants a student to ship\n  received: NO: equal."
    assert (said in written.err) == failed
    assert ("the bundle stays in runs/net-w4a4" in written.err) == failed


@pytest.mark.parametrize("json_wanted", [False, True])
@pytest.mark.parametrize("quiet", [False, True])
def test_a_stopped_run_is_continued_with_the_same_output(
    json_wanted: bool,
    quiet: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(*_: object, **__: object) -> QuantizeResult:
        raise RunStopped(15)

    monkeypatch.setattr(sys.modules["lrq_deploy.cli.job.pipeline"], "quantize", stopped)
    flags = replace(FLAGS, out=tmp_path / "out", require_ship=True)
    run_folder_of(tmp_path / "out").mkdir()
    with pytest.raises(typer.Exit):
        run_and_report(MODEL, flags, json=json_wanted, quiet=quiet)
    command = capsys.readouterr().err.splitlines()[-1]
    assert command.endswith(
        f"--out {tmp_path / 'out'} --resume --require-ship"
        + " --json" * json_wanted
        + " --quiet" * quiet
    )


def test_an_interrupted_run_says_so_and_exits_130(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "lrq_deploy", "demo", "--out", str(tmp_path / "demo")]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("teacher: ")
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=240)
    assert (process.returncode, complaint.strip()) == (130, "interrupted")
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(
    ("training", "code", "said"),
    [
        # Dataclasses are defined by `exec`: a Ctrl-C during an import ended `python -m` by -2.
        pytest.param("exec('raise KeyboardInterrupt')", 130, ["interrupted"], id="executed-text"),
        pytest.param("drop(2); progress(None); os._exit(7)", 130, ["interrupted"], id="dropped"),
        pytest.param("drop(2)", 130, ["interrupted"], id="dropped-after-the-last-event"),
        pytest.param("drop(15); progress(None); os._exit(7)", 143, [], id="terminated"),
    ],
)
def test_a_signal_that_python_mishandles_ends_the_demo_too(
    tmp_path: Path, training: str, code: int, said: list[str]
) -> None:
    (tmp_path / "interrupted.py").write_text(f"""
import os, sys, weakref
import lrq_deploy.cli.commands.demo_network as network, lrq_deploy.cli.main as main

def drop(number):
    class Held: ...
    held = Held()
    watch = weakref.ref(held, lambda _: os.kill(os.getpid(), number))
    del held

def train_digits(folder, seed, progress):
    {training}

network.train_digits = train_digits
sys.argv = ["lrq-deploy", "demo", "--out", "demo"]
main.run()
""")
    done = subprocess.run(
        [sys.executable, "-m", "interrupted"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    # Python says on stderr what it dropped.
    ours = [line for line in done.stderr.splitlines() if line == "interrupted"]
    assert (done.returncode, ours) == (code, said)
    assert not (tmp_path / "demo").exists()
    assert not (tmp_path / "demo").exists()
