"""A CPU without VNNI, emulated, and what it and onnxruntime show of themselves."""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from lrq_deploy.errors import ExportError, OptionError

RUNNER = Path(__file__).parent / "graph_runner.py"
BATCH = 20
VNNI = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"})
PROBE_TERMS = 64
PROBE_SUM = PROBE_TERMS * 255 * 127


@dataclass(frozen=True)
class Cpu:
    """What runs the graphs.

    Attributes:
        prefix: command in front of the interpreter; empty for this machine itself.
        name: what CPUID says the CPU is called.
        features: those of ``graph_runner.FEATURES`` that CPUID says it has.
        probe: what onnxruntime gives for ``PROBE_TERMS`` products of 255 and 127.
    """

    prefix: tuple[str, ...]
    name: str
    features: tuple[str, ...]
    probe: int

    def describe(self) -> str:
        """A sentence for the table."""
        return (
            f"{self.name}, CPUID: {', '.join(self.features) or 'none of the features'}; "
            f"{PROBE_TERMS} products of 255 and 127 add up to {self.probe:,}"
        )


def find_emulator(name: str) -> str:
    """Path of the emulator.

    Raises:
        OptionError: it is not installed.
    """
    found = shutil.which(name)
    if found is None:
        raise OptionError(
            "a CPU without VNNI needs QEMU's user mode emulation",
            f"no program {name}",
            "run apt-get install qemu-user, or pass --qemu with its path",
        )
    return found


def check_emulated(cpu: Cpu, model: str) -> None:
    """Refuse a CPU that would show nothing.

    Raises:
        OptionError: it has VNNI, or its kernels do not saturate.
    """
    if VNNI.isdisjoint(cpu.features) and cpu.probe != PROBE_SUM:
        return
    raise OptionError(
        f"--cpu must be one whose integer kernels saturate, not add up to {PROBE_SUM:,}",
        f"{model}: {cpu.describe()}",
        "pass a CPU without VNNI, such as Haswell-noTSX",
    )


def look(prefix: tuple[str, ...]) -> Cpu:
    """Ask a CPU what it is and let onnxruntime add up the probe on it."""
    with tempfile.TemporaryDirectory() as scratch:
        graph, out = Path(scratch) / "probe.onnx", Path(scratch) / "probe.npz"
        graph.write_bytes(probe_graph().SerializeToString())
        images = torch.full((4, PROBE_TERMS), 255.0)
        said = _start(prefix, graph, images, out)
        found = int(np.load(out)["logits"].min())
    return Cpu(prefix, said["name"], tuple(said["features"]), found)


def probe_graph() -> onnx.ModelProto:
    """A product of uint8 and int8 whose every pair of terms is beyond 16 bits."""
    weight = numpy_helper.from_array(np.full((PROBE_TERMS, 32), 127, np.int8), "weight")
    nodes = [
        helper.make_node("Cast", ["input"], ["bytes"], to=TensorProto.UINT8),
        helper.make_node("MatMulInteger", ["bytes", "weight"], ["logits"]),
    ]
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", PROBE_TERMS])
    wanted = helper.make_tensor_value_info("logits", TensorProto.INT32, ["n", 32])
    graph = helper.make_graph(nodes, "probe", [given], [wanted], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def logits(graph: Path, images: Tensor, cpu: Cpu, folder: Path) -> Tensor:
    """Logits ``[N, classes]`` on a CPU; read from ``folder`` where the same was run before."""
    key = hashlib.sha256(graph.read_bytes())
    key.update(images.numpy().tobytes())
    key.update("\0".join((*cpu.prefix, cpu.name, runtime())).encode())
    kept = folder / f"{graph.parent.name}-{graph.stem}-{key.hexdigest()[:16]}.npz"
    if not kept.exists():
        partial = kept.with_suffix(".partial.npz")
        _start(cpu.prefix, graph, images, partial)
        partial.replace(kept)
    return torch.from_numpy(np.load(kept)["logits"])


def _start(prefix: tuple[str, ...], graph: Path, images: Tensor, out: Path) -> dict[str, Any]:
    """Run the runner, under ``prefix``; what it prints."""
    with tempfile.TemporaryDirectory() as scratch:
        given = Path(scratch) / "images.npy"
        np.save(given, images.numpy())
        files = (f"--images={given}", f"--batch={BATCH}", f"--out={out}", str(graph))
        said: dict[str, Any] = json.loads(checked([*prefix, sys.executable, str(RUNNER), *files]))
    return said


def checked(command: list[str]) -> str:
    """What a command prints.

    Raises:
        ExportError: it fails.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ExportError(
            "every process of the benchmark must end with 0",
            f"{done.returncode} from {' '.join(command)}:\n{done.stderr[-2000:]}",
            "run the command by itself",
        )
    return done.stdout


def runtime() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)
