"""Peak memory of a graph in ONNX Runtime, seen from a fresh process that has nothing else."""

import subprocess
import sys
from pathlib import Path

from lrq_deploy.errors import ExportError

__all__ = ["peak_memory_bytes"]

# VmHWM, not ru_maxrss: that one starts from the memory of the process that forked.
_PROGRAM = """
import sys
import numpy as np
import onnxruntime as rt

def status(field):
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))

path, batch, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
before = status("VmRSS")
options = rt.SessionOptions()
options.intra_op_num_threads = threads
options.log_severity_level = 3
session = rt.InferenceSession(path, options, providers=["CPUExecutionProvider"])
image = session.get_inputs()[0]
outputs = [value.name for value in session.get_outputs()]
logits = "logits" if "logits" in outputs else outputs[0]
images = np.ones([batch, *image.shape[1:]], np.float32)  # zeros would share one page
for _ in range(3):
    session.run([logits], {image.name: images})
sys.stdout.write(str(max(status("VmHWM") - before, 0)))
"""


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
    arguments = [sys.executable, "-c", _PROGRAM, str(model), str(batch_size), str(threads)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not done.stdout.strip().isdigit():
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ExportError(
            "the graph must run in a process of its own",
            f"exit code {done.returncode}: {last}",
            "free memory, or pass a smaller --batch",
        )
    return int(done.stdout)
