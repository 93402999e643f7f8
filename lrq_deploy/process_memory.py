"""Memory of this process, as far as the system tells."""

import sys
from pathlib import Path

__all__ = ["peak_bytes", "resident_bytes"]

_STATUS = Path("/proc/self/status")


def resident_bytes() -> int:
    """Memory that the process takes now; the most that it took, where that is all one can ask."""
    return _stated("VmRSS") or peak_bytes()


def peak_bytes() -> int:
    """The most memory that the process took; 0 on Windows."""
    # Before getrusage, whose maximum starts from the memory of the process that forked this one.
    return _stated("VmHWM") or _most()


def _stated(field: str) -> int:
    """A field of Linux's status of the process in bytes, 0 without one."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    found = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return 1024 * int(found[0]) if found else 0


def _most() -> int:
    if sys.platform == "win32":
        return 0
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
