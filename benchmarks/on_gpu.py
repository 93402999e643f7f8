"""Time and memory of ``quantize`` on a GPU, as the goals of docs/performance.md ask for them.

Each row is a run of the command line in a process of its own, so that the whole start counts:
resnet20_jpeg and a ResNet-18 of 224 x 224 pixels with random weights, as they are and compiled.
Behind each row the table is printed again, for a machine that may be taken away.

    python benchmarks/on_gpu.py --shared ../shared --rows resnet20,resnet18
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torchvision

sys.path.insert(0, str(Path(__file__).parent))

from accuracy import NETWORKS, commit, machine

ROWS = {
    "resnet20": ("resnet20_jpeg",),
    "resnet18": ("resnet18",),
    "resnet20-compiled": ("resnet20_jpeg", "--compile"),
    "resnet18-compiled": ("resnet18", "--compile"),
}


def main() -> None:
    """Run the rows that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", default="../shared")
    parser.add_argument("--rows", default=",".join(ROWS), help=", ".join(ROWS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--recipe", default="balanced")
    parser.add_argument("--bits", default="4")
    options = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    for name in options.rows.split(","):
        network, *flags = ROWS[name]
        common = ("--device", options.device, "--recipe", options.recipe, "--bits", options.bits)
        found[name] = _run([*_model(network, Path(options.shared)), *common, *flags])
        print(f"{table(found)}\n\n{options.recipe}, seed 0, {_where()}.\n", flush=True)


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown of the results of ``quantize --json`` by row."""
    stages = list(dict.fromkeys(name for result in found.values() for name in _stages(result)))
    head = ["run", "seconds", *stages, "same answer", "drop", "GPU MiB"]
    lines = [head, ["---"] * len(head)]
    for name, result in found.items():
        teacher, student = result["teacher_accuracy"], result["student_accuracy"]
        memory, taken = result["peak_cuda_memory_mib"], _stages(result)
        low, high = result["agreement_interval"]
        lines.append(
            [
                name,
                f"{result['seconds']:.1f}",
                *(f"{taken[stage]:.1f}" if stage in taken else "-" for stage in stages),
                f"{result['agreement']:.2f} % ({low:.1f} to {high:.1f})",
                "-" if teacher is None else f"{teacher - student:.2f}",
                "-" if memory is None else f"{memory:,.0f}",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _stages(result: dict[str, Any]) -> dict[str, float]:
    taken: dict[str, float] = result["stage_seconds"]
    return taken


def _model(network: str, shared: Path) -> list[str]:
    if network in NETWORKS:
        known = NETWORKS[network]
        models = shared / "models"
        images = shared / "data" / known.images
        model = [str(models / known.file), f"--arch={models / known.arch}", *known.flags]
        # Fewer files travel to a lent machine.
        return [*model, f"--images={images}"] if images.exists() else model
    path = Path(tempfile.gettempdir()) / f"lrq-{network}.pt"
    torch.manual_seed(0)
    made = torchvision.models.get_model(network).train()
    with torch.no_grad():
        for _ in range(5):
            made(torch.randn(16, 3, 224, 224))
    torch.save(made.eval().state_dict(), path)
    return [str(path), f"--arch=torchvision:{network}", "--input-shape=3,224,224"]


def _run(arguments: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lrq_deploy", "quantize", *arguments]
        ending = [f"--out={folder}/bundle", "--no-bench", "--json"]
        done = subprocess.run([*command, *ending], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _where() -> str:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{gpu}, {machine()}, torch {torch.__version__}, {commit()}"


if __name__ == "__main__":
    main()
