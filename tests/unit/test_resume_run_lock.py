"""Two runs into one folder: the second is refused, and a dead one is in nobody's way."""

import errno
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from lrq_deploy.errors import OutputError
from lrq_deploy.resume.control import RunControl
from lrq_deploy.resume.run_folder import RunFolder

fcntl = pytest.importorskip("fcntl", reason="no locks of files on this system")

pytestmark = pytest.mark.unit

IDENTITY = {"seed": 0}
RESUME = RunControl(resume=True)
OTHER = """
import sys
from pathlib import Path
from lrq_deploy.resume.control import RunControl
from lrq_deploy.resume.run_folder import RunFolder
run = RunFolder(Path(sys.argv[1]), RunControl())
run.begin({"seed": 0})
print("begun", flush=True)
sys.stdin.read()
"""


@contextmanager
def other_run(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process in which a run goes on, until it is killed."""
    command = [sys.executable, "-c", OTHER, str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "bundle.run"


def test_a_second_run_is_refused_until_the_first_is_dead(folder: Path) -> None:
    with other_run(folder) as process:
        for control, force in ((RunControl(), False), (RESUME, False), (RunControl(), True)):
            with pytest.raises(OutputError, match=r"bundle\.run, in which another run"):
                RunFolder(folder, control).check(force)
            with pytest.raises(OutputError, match="another run"):
                RunFolder(folder, control).begin(IDENTITY)
        assert sorted(path.name for path in folder.iterdir()) == ["run.json", "run.lock"]
        process.kill()
        process.wait()
        with pytest.raises(OutputError, match="continued or given up"):
            RunFolder(folder, RunControl()).check(force=False)
        continued = RunFolder(folder, RESUME)
        continued.check(force=False)
        continued.begin(IDENTITY)
        continued.remove()
    assert not folder.exists()


def test_a_second_run_of_the_same_process_is_refused_too(folder: Path) -> None:
    with closing(RunFolder(folder, RunControl())) as first:
        first.begin(IDENTITY)
        with pytest.raises(OutputError, match="another run"):
            RunFolder(folder, RESUME).check(force=False)
        with pytest.raises(OutputError, match="another run"):
            RunFolder(folder, RESUME).begin(IDENTITY)
        done = subprocess.run(
            [sys.executable, "-c", OTHER, str(folder)], capture_output=True, text=True, check=False
        )
        assert "in which another run keeps its state" in done.stderr


def test_a_run_that_ended_lets_others_begin(folder: Path) -> None:
    finished = RunFolder(folder, RunControl())
    finished.begin(IDENTITY)
    finished.remove()
    with other_run(folder):
        pass


def test_a_process_that_lives_on_can_let_go_of_its_stopped_run(folder: Path) -> None:
    with closing(RunFolder(folder, RunControl())) as stopped:
        stopped.begin(IDENTITY)
    with other_run(folder):
        pass


def test_where_files_have_no_locks_runs_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with other_run(folder), closing(RunFolder(folder, RESUME)) as second:
        second.begin(IDENTITY)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="must be writable"):
        RunFolder(tmp_path / "file" / "bundle.run", RunControl()).begin(IDENTITY)
