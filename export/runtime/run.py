"""Runs and times the network beside this file; lrq-deploy build --for-device wrote the folder.

    pip install numpy onnxruntime
    python3 run.py [--threads N] [--runs N]

runs the check images through model.onnx, times it in turns with float.onnx, the same network
without quantizers (one image a run), and writes outputs.json. Copy that file into this folder
where lrq-deploy is, and run there

    lrq-deploy validate BUNDLE --device-outputs FOLDER
    lrq-deploy bench BUNDLE --device-outputs FOLDER

Nothing else is needed, with Python 3.8 or newer.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

__all__ = [
    "EXPECTED_NAME",
    "FLOAT_NAME",
    "GRAPH_NAME",
    "IMAGES_NAME",
    "LEAST_RUNS",
    "OUTPUTS_NAME",
    "OUTPUTS_SCHEMA",
    "cpu_name",
    "distribution",
    "failures",
    "interleaved",
    "main",
    "names",
    "open_runtime",
    "peak_memory_command",
    "reason",
]

OUTPUTS_SCHEMA = 1
EXPECTED_NAME = "expected.json"
OUTPUTS_NAME = "outputs.json"
GRAPH_NAME = "model.onnx"
FLOAT_NAME = "float.onnx"
IMAGES_NAME = "images.0.bin"
LEAST_RUNS = 10
_WARMUP = 5
_PEAK_MEMORY = "--peak-memory"


class _StopError(Exception):
    """A sentence for whoever runs this."""


def open_runtime(
    model: str | bytes, threads: int, optimize: bool = True, optimized: str = ""
) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU with all stated that changes speed or bits.

    Args:
        model: path of the file, or the serialised graph.
        threads: of one run, 1 or more.
        optimize: whether to fuse; otherwise every node runs as written.
        optimized: where to write the graph that really runs; nowhere if empty.

    Raises:
        failures(): the runtime does not accept the graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning threads steal the cores from whatever else runs on a busy machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    if optimized:
        options.optimized_model_filepath = optimized
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def failures() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises where it refuses a graph; they have no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = [x for x in vars(state).values() if isinstance(x, type) and issubclass(x, Exception)]
    return tuple(kinds)


def reason(error: Exception) -> str:
    """The first line of a runtime's message, and what it lists where the line ends in a colon."""
    first, *rest = str(error).strip().splitlines() or [type(error).__name__]
    listed = [line.strip() for line in rest] if first.endswith(":") else []
    return " ".join([first, *listed])


def names(runtime: Any) -> tuple[str, str]:
    """Of the image and of the logits, which other exporters may call as they like."""
    outputs = [value.name for value in runtime.get_outputs()]
    return runtime.get_inputs()[0].name, "logits" if "logits" in outputs else outputs[0]


def interleaved(calls: Sequence[Callable[[], Any]], warmup: int, runs: int) -> list[list[float]]:
    """Seconds of each call in each run; they take turns, so all meet the same clock frequency."""
    for call in calls:
        for _ in range(warmup):
            call()
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(runs):
        for index, call in enumerate(calls):
            start = time.perf_counter()
            call()
            taken[index].append(time.perf_counter() - start)
    return taken


def distribution(seconds: Sequence[float]) -> dict[str, float]:
    """Percentiles in milliseconds, with linear interpolation."""
    import numpy as np

    p50, p90, p99 = (1000 * float(q) for q in np.percentile(seconds, (50, 90, 99)))
    return {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99}


def cpu_name(source: Path = Path("/proc/cpuinfo")) -> str:
    """Model name of the processor, else of the board, else the machine type."""
    lines = [x for x in _told(source).splitlines() if x.startswith("model name")]
    name = lines[0].partition(":")[2].strip() if lines else ""
    return name or _told(Path("/proc/device-tree/model")).strip("\0\n ") or platform.machine()


def _told(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def peak_memory_command(model: Path, batch_size: int, threads: int) -> list[str]:
    """A fresh process that prints by how many bytes loading and running a graph made it grow.

    It needs ``/proc``.
    """
    here = str(Path(__file__).resolve())
    return [sys.executable, here, _PEAK_MEMORY, str(model), str(batch_size), str(threads)]


def _grown(model: str, batch_size: int, threads: int) -> int:
    """Bytes from the bare runtime to the peak of loading and running a graph."""
    import numpy as np
    import onnxruntime  # noqa: F401  belongs to what was there before

    before = _status("VmRSS")
    runtime = open_runtime(model, threads)
    image, logits = names(runtime)
    shape = (batch_size, *runtime.get_inputs()[0].shape[1:])
    images = np.ones(shape, np.float32)  # zeros would share one page
    for _ in range(3):
        runtime.run([logits], {image: images})
    # VmHWM, not ru_maxrss: that one starts from the memory of the process that forked.
    return max(_status("VmHWM") - before, 0)


def _status(field: str) -> int:
    with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def _peak_memory(model: Path, threads: int) -> int | None:
    """None where the system does not tell, or has no room for another process."""
    command = peak_memory_command(model, 1, threads)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    told = done.stdout.strip()
    return int(told) if done.returncode == 0 and told.isdigit() else None


def _expected(folder: Path) -> tuple[dict[str, Any], str]:
    """What the network must answer, and the hash of the file that says so, once all is whole."""
    again = "copy the folder that lrq-deploy build wrote again"
    try:
        raw = (folder / EXPECTED_NAME).read_bytes()
        document = json.loads(raw.decode("utf-8"))
        for name, wanted in document["files"].items():
            if _sha256((folder / name).read_bytes()) != wanted:
                raise _StopError(f"{name} is not the file that was written; {again}")
    except OSError as error:
        raise _StopError(f"{error.filename}: {error.strerror}; {again}") from None
    except (KeyError, TypeError, AttributeError, ValueError):
        raise _StopError(f"{EXPECTED_NAME} is damaged; {again}") from None
    return document, _sha256(raw)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _opened(path: Path, threads: int, about: dict[str, Any]) -> Any:
    import onnxruntime

    try:
        return open_runtime(str(path), threads)
    except failures() as error:
        here = onnxruntime.__version__
        said = f"onnxruntime {here} does not load {path.name}: {reason(error)}"
        if _version(here) >= _version(about["needs_onnxruntime"]):
            raise _StopError(said) from None
        remedy = f"install {about['needs_onnxruntime']} or newer"
        if _version(here) >= _version(about["oldest_onnxruntime"]):
            older = ".".join(str(part) for part in _version(here))
            remedy += (
                ", or write the folder for this one where lrq-deploy is: lrq-deploy build BUNDLE "
                f"--engine onnxruntime --onnxruntime {older} --for-device DIR"
            )
        raise _StopError(f"{said}\n{remedy}") from None


def _version(text: str) -> tuple[int, ...]:
    """``(1, 18)`` of ``1.18.1``."""
    return tuple(int(part) for part in text.split(".")[:2])


def _measured(folder: Path, expected: dict[str, Any], threads: int, runs: int) -> dict[str, Any]:
    """Logits of the check images, and the times of both graphs."""
    import numpy as np

    paths = [folder / FLOAT_NAME, folder / GRAPH_NAME]
    graphs = [_opened(path, threads, expected["about"]) for path in paths]
    shape = graphs[1].get_inputs()[0].shape[1:]
    images = np.fromfile(folder / IMAGES_NAME, "<f4").astype(np.float32).reshape(-1, 1, *shape)
    try:
        calls = []
        for graph in graphs:
            image, logits = names(graph)
            calls.append(partial(graph.run, [logits], {image: images[0]}))
        image, logits = names(graphs[1])
        rows = [graphs[1].run([logits], {image: one})[0][0].tolist() for one in images]
        taken = interleaved(calls, _WARMUP, runs)
    except failures() as error:
        raise _StopError(f"a graph does not run: {reason(error)}") from None
    times = [distribution(seconds) for seconds in taken]
    return {
        "device": {**_device(), "providers": graphs[1].get_providers()},
        # Nine digits tell all float32 apart.
        "logits": [[float(f"{value:.9g}") for value in row] for row in rows],
        "batches": [{"batch_size": 1, "float_graph": times[0], "quantized": times[1]}],
    }


def _sizes(folder: Path, threads: int) -> dict[str, Any]:
    """Bytes of both graphs on the disk and in memory, once neither is loaded here."""
    paths = {"float": folder / FLOAT_NAME, "quantized": folder / GRAPH_NAME}
    sizes = {f"{name}_bytes": path.stat().st_size for name, path in paths.items()}
    memory = {f"{name}_memory_bytes": _peak_memory(path, threads) for name, path in paths.items()}
    return {**sizes, **memory}


def _device() -> dict[str, Any]:
    """Facts of this machine."""
    import numpy as np
    import onnxruntime

    return {
        "cpu": cpu_name(),
        "machine": platform.machine(),
        "cores": os.cpu_count() or 1,
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def _write(path: Path, document: dict[str, Any]) -> None:
    """The whole file or none."""
    unfinished = path.with_name(path.name + ".partial")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            json.dump(document, file)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(str(unfinished), str(path))
    except OSError as error:
        raise _StopError(
            f"{path} cannot be written: {error.strerror}; copy the folder to where there is room "
            "and you may write, and run it there"
        ) from None
    finally:
        if unfinished.exists():
            unfinished.unlink()


def _clear(path: Path) -> None:
    """What an earlier run left must not be taken for what this one makes."""
    _write(path, {})  # where that is refused, it is before anything runs
    path.unlink()


def _summary(expected: dict[str, Any], document: dict[str, Any]) -> str:
    import numpy as np

    told = (document["logits"], expected["logits"], expected["here"])
    found, exact, here = (np.array(rows, np.float32) for rows in told)
    if expected["task"] == "multilabel":
        kind, same = "yes or no of a label", (found > 0) == (exact > 0)
    else:
        kind, same = "top-1", found.argmax(1) == exact.argmax(1)
    bits = (found == here).all(1)
    device, (times,) = document["device"], document["batches"]
    threads = document["threads"]
    lines = [
        f"onnxruntime {device['onnxruntime']}, {threads} thread{'s' * (threads > 1)}, "
        f"{device['cpu']} ({device['machine']}), {document['runs']} interleaved runs",
        f"same {kind} as expected: {int(same.sum())} of {same.size}; "
        f"same bits as where the folder was written: {int(bits.sum())} of {bits.size} images",
        f"{'':9}{'p50 ms':>10}{'p90 ms':>10}{'p99 ms':>10}{'memory MiB':>12}",
    ]
    for name, key in (("float", "float_graph"), ("quantized", "quantized")):
        figures = "".join(f"{times[key][p]:10.3f}" for p in ("p50_ms", "p90_ms", "p99_ms"))
        memory = document[f"{name}_memory_bytes"]
        lines.append(f"{name:9}{figures}{'-' if memory is None else f'{memory / 2**20:.1f}':>12}")
    ratio = times["quantized"]["p50_ms"] / times["float_graph"]["p50_ms"]
    lines += [
        f"quantized takes {ratio:.3f} of the time of float",
        f"{OUTPUTS_NAME} is written. Copy it into this folder where lrq-deploy is, and there run:",
        "lrq-deploy validate BUNDLE --device-outputs FOLDER",
        "lrq-deploy bench BUNDLE --device-outputs FOLDER",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str], folder: Path) -> int:
    """Run, time, write and say what was found; the exit code: 2 where that cannot be done.

    Args:
        arguments: options.
        folder: with ``expected.json`` and all that it names.
    """
    if arguments[:1] == [_PEAK_MEMORY]:
        sys.stdout.write(str(_grown(arguments[1], int(arguments[2]), int(arguments[3]))))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1, help="of one run; 1 unless given")
    parser.add_argument("--runs", type=int, default=50, help="timed of each graph; 50 unless given")
    options = parser.parse_args(arguments)
    if options.threads < 1 or options.runs < LEAST_RUNS:
        parser.error(f"--threads must be 1 or more, --runs {LEAST_RUNS} or more")
    try:
        import numpy  # noqa: F401
        import onnxruntime  # noqa: F401

        expected, digest = _expected(folder)
        _clear(folder / OUTPUTS_NAME)
        document = {
            "producer": "lrq-deploy",
            "schema_version": OUTPUTS_SCHEMA,
            "expected_sha256": digest,
            "threads": options.threads,
            "runs": options.runs,
            "warmup": _WARMUP,
            **_measured(folder, expected, options.threads, options.runs),
            **_sizes(folder, options.threads),
        }
        _write(folder / OUTPUTS_NAME, document)
    except ImportError as error:
        wanted = f"{sys.executable} -m pip install numpy onnxruntime"
        sys.stderr.write(f"run.py needs numpy and onnxruntime ({error}): {wanted}\n")
        return 2
    except _StopError as error:
        sys.stderr.write(f"run.py: {error}\n")
        return 2
    sys.stdout.write(_summary(expected, document))
    return 0


if __name__ == "__main__":
    try:
        exit_code = main(sys.argv[1:], Path(__file__).resolve().parent)
    except KeyboardInterrupt:
        exit_code = 130
    sys.exit(exit_code)
