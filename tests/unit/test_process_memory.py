"""Memory of the process in bytes, whatever unit the system counts in."""

import subprocess
import sys
from pathlib import Path

import pytest

from lrq_deploy import process_memory
from lrq_deploy.process_memory import peak_bytes, resident_bytes

pytestmark = pytest.mark.unit

resource = pytest.importorskip("resource", reason="not on Windows")


def test_the_peak_stays_where_memory_was_given_back() -> None:
    before = resident_bytes()
    held = bytearray(b"x" * 64 * 2**20)
    grown = resident_bytes()
    del held
    assert grown - before > 48 * 2**20
    assert grown <= peak_bytes() < 2**40


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
@pytest.mark.parametrize("status", ["missing", "no such field\n"])
def test_without_a_status_the_units_are_those_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, unit: int, status: str
) -> None:
    monkeypatch.setattr(process_memory, "_STATUS", tmp_path / "status")
    if status != "missing":
        (tmp_path / "status").write_text(status)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    monkeypatch.setattr(sys, "platform", platform)
    assert peak_bytes() == resident_bytes() == pytest.approx(unit * most, rel=0.01)


def test_windows_has_no_resource_and_imports_what_needs_memory(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['resource'] = None\n"
        "import lrq_deploy.resume.run_folder, lrq_deploy.cli.job.finishing\n"
        "from lrq_deploy import process_memory\n"
        "from pathlib import Path\n"
        f"process_memory._STATUS = Path({str(tmp_path / 'none')!r})\n"
        "sys.platform = 'win32'\n"
        "assert process_memory.peak_bytes() == process_memory.resident_bytes() == 0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
