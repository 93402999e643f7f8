"""Peak memory of a graph in ONNX Runtime, seen from a fresh process that has nothing else."""

import subprocess
from pathlib import Path

from lrq_deploy.errors import ExportError
from lrq_deploy.export.runtime.run import peak_memory_command

__all__ = ["peak_memory_bytes"]


def peak_memory_bytes(model: Path, batch_size: int, threads: int = 1) -> int | None:
    """Growth of a process from the bare runtime to the peak of loading and running a graph.

    Args:
        model: file of the graph.
        batch_size: images per run, 1 or more.
        threads: of one run, 1 or more.

    Returns:
        Bytes, or None on a system without ``/proc``.

    Raises:
        ExportError: the process ended with an error.
    """
    if not Path("/proc/self/status").exists():
        return None
    command = peak_memory_command(model, batch_size, threads)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not done.stdout.strip().isdigit():
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ExportError(
            "the graph must run in a process of its own",
            f"exit code {done.returncode}: {last}",
            "free memory, or pass a smaller --batch",
        )
    return int(done.stdout)
