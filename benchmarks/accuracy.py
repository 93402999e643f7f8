"""Accuracy of ``lrq-deploy quantize`` over networks, settings, recipes, methods and seeds.

Every cell is one run of the command line in a process of its own, so its time and peak memory are
its own. A finished cell is a JSON file and is not run again: the benchmark resumes where it
stopped. Machines that share a folder may run cells of one grid at the same time, also the same
cell: the first result stays. The table is written from these files, as Markdown and JSON. With
``--cache`` cells of one network, recipe and seed share their images; the seconds are then those of
the run plus what making these images took when they were made, and the last column states that
share.

    python benchmarks/accuracy.py --shared ../shared --out runs/accuracy --seeds 0,1,2 \
        --networks resnet20,resnet20_jpeg --settings w4a4,w8a8 --recipes balanced

``--list`` numbers the cells, ``--cell-index N`` runs one, as a scheduler's array of jobs does, and
``--merge DIR ...`` makes one table of the results of several folders.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from lrq_deploy.options import Method, Recipe

CIFAR = (
    "--input-shape=3,32,32",
    "--mean=0.485,0.456,0.406",
    "--std=0.229,0.224,0.225",
)
PERSON = ("--input-shape=3,96,96", "--mean=0,0,0", "--std=1,1,1")


@dataclass(frozen=True)
class Network:
    """A checkpoint, ``FILE.py:FUNCTION`` that builds it, and the images that measure it."""

    file: str
    arch: str
    images: str
    flags: tuple[str, ...]


NETWORKS = {
    "resnet20": Network("resnet20.pt", "resnet_cifar.py:resnet20", "cifar10/test", CIFAR),
    "resnet20_jpeg": Network(
        "resnet20_jpeg.pt", "resnet_cifar.py:resnet20", "cifar10/test_jpeg", CIFAR
    ),
    "resnet32": Network("resnet32.pt", "resnet_cifar.py:resnet32", "cifar10/test", CIFAR),
    "mobilenet_vww": Network(
        "mobilenet_vww.pt", "mobilenet_vww.py:mobilenet_vww", "photos", PERSON
    ),
}
"""Of ``../shared``."""

FAMILY_FILE = Path(__file__).with_name("family_networks.py")
FAMILIES = {
    name: Network(f"{name}.pt", f"{FAMILY_FILE}:{name}", "cifar10/train", CIFAR)
    for name in (
        *("wide_resnet", "densenet", "efficientnet", "mobilenet_v2", "vgg"),
        *("shufflenet", "convnext", "vision_transformer"),
    )
}
"""Of ``families.py``, which trains them; ``--models`` is its ``--out``."""

SETTINGS = {
    "w8a8": ("--bits=8",),
    "w4a8": ("--weight-bits=4", "--act-bits=8"),
    "w8a8-ort": ("--bits=8", "--target=onnxruntime"),
    "w4a8-ort": ("--weight-bits=4", "--act-bits=8", "--target=onnxruntime"),
    "w4a4": ("--bits=4",),
    "w4a4-ort": ("--bits=4", "--target=onnxruntime"),
    "w4a4-same": ("--bits=4", "--edge-bits=same"),
    "w3a3": ("--bits=3",),
    "w2a4": ("--weight-bits=2", "--act-bits=4"),
}
SETTINGS |= {f"{name}-float32": (*flags, "--precision=float32") for name, flags in SETTINGS.items()}
"""With ``float32`` what CPUs do that multiply no bfloat16: its recipes have their steps too."""


@dataclass(frozen=True)
class Cell:
    """One run."""

    network: str
    setting: str
    recipe: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        """File name of its result."""
        method = "" if self.method == "lrq" else f"{self.method}-"
        return f"{self.network}-{self.setting}-{self.recipe}-{method}seed{self.seed}"


def main() -> None:
    """Run what is missing, then write the table; or only one of the three things asked for."""
    options = _options()
    out = Path(options.out)
    cells = _cells(options)
    if options.list:
        print("\n".join(f"{index} {cell.name}" for index, cell in enumerate(cells)))
        return
    (out / "cells").mkdir(parents=True, exist_ok=True)
    if options.cell_index is not None:
        if not 0 <= options.cell_index < len(cells):
            sys.exit(f"--cell-index must be in 0..{len(cells) - 1}, got {options.cell_index}")
        _run_missing(cells[options.cell_index], options)
        return
    if options.merge:
        _merge([Path(folder) for folder in options.merge], out)
    else:
        for cell in cells:
            _run_missing(cell, options)
    results = [_result(path) for path in sorted((out / "cells").glob("*.json"))]
    rows = _rows(results)
    document = {"schema_version": 1, "rows": [asdict(row) for row in rows], "cells": results}
    (out / "accuracy.json").write_text(json.dumps(document, indent=1) + "\n")
    table = _table(rows)
    (out / "accuracy.md").write_text(table)
    print(table)


def _cells(options: argparse.Namespace) -> list[Cell]:
    return [
        Cell(network, setting, recipe, method, seed)
        for network in options.networks
        for setting in options.settings
        for recipe in options.recipes
        for method in options.methods
        for seed in options.seeds
    ]


def _of(known: Collection[str]) -> Callable[[str], list[str]]:
    """Reads words between commas, each of which must be known."""

    def words(text: str) -> list[str]:
        if unknown := [word for word in text.split(",") if word not in known]:
            must = f"each must be one of {', '.join(known)}"
            raise argparse.ArgumentTypeError(f"{must}; got {', '.join(map(repr, unknown))}")
        return text.split(",")

    return words


def seeds(text: str) -> list[int]:
    """Whole numbers between commas."""
    return [int(word) for word in text.split(",")]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", default="../shared")
    parser.add_argument("--models", help="folder of the checkpoints; that of --shared if left out")
    parser.add_argument("--out", default="runs/accuracy")
    networks = "resnet20,resnet20_jpeg,mobilenet_vww"
    parser.add_argument("--networks", type=_of(NETWORKS | FAMILIES), default=networks)
    parser.add_argument("--settings", type=_of(SETTINGS), default="w8a8,w4a4")
    parser.add_argument("--recipes", type=_of(get_args(Recipe)), default="balanced")
    methods = get_args(Method)
    help_text = ", ".join(methods)
    parser.add_argument("--methods", "--method", type=_of(methods), default="lrq", help=help_text)
    parser.add_argument("--seeds", type=seeds, default="0")
    parser.add_argument("--cache", help="folder where the images of cells are kept and reused")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--list", action="store_true", help="number the cells of the grid")
    only.add_argument("--cell-index", type=int, help="run this cell and write no table")
    only.add_argument("--merge", nargs="+", metavar="DIR", help="tabulate these folders in --out")
    return parser.parse_args()


def _merge(folders: list[Path], out: Path) -> None:
    """Copy the results of all folders into ``out``; of one cell the first stays."""
    for folder in folders:
        if folder.resolve() == out.resolve():
            continue
        records = sorted((folder / "cells").glob("*.json"))
        if not records:
            sys.exit(f"{folder} must hold results of this benchmark; it has no cells/*.json")
        for record in records:
            _result(record)
            if not _publish(record.read_text(), out / "cells" / record.name):
                print(f"{record}: there already, left out", file=sys.stderr)


def _result(record: Path) -> dict[str, Any]:
    """What a cell gave; a copy under another name would count twice."""
    try:
        result: dict[str, Any] = json.loads(record.read_text())
        # Cells of before there were methods hold none.
        result = {"method": "lrq"} | result
        name = Cell(**{field.name: result[field.name] for field in fields(Cell)}).name
    except (KeyError, TypeError, ValueError):
        name = ""
    if name != record.stem:
        sys.exit(f"{record} must hold the whole result of the cell that it is named for; delete it")
    return result


def _publish(text: str, record: Path) -> bool:
    """Write a result that appears whole; False where another one is there already."""
    with tempfile.NamedTemporaryFile("w", dir=record.parent, suffix=".partial") as partial:
        partial.write(text)
        partial.flush()
        Path(partial.name).chmod(0o644)
        try:
            os.link(partial.name, record)
        except FileExistsError:
            return False
    return True


def _run_missing(cell: Cell, options: argparse.Namespace) -> None:
    """Run a cell whose result is not there; where another machine is first, its result stays."""
    out = Path(options.out)
    record = out / "cells" / f"{cell.name}.json"
    if record.exists():
        return
    print(f"running {cell.name}", file=sys.stderr, flush=True)
    (out / "bundles").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{cell.name}.", dir=out / "bundles") as attempt:
        made, bundle = Path(attempt) / "bundle", out / "bundles" / cell.name
        said = _run(cell, options, made)
        result = json.loads(said.replace(str(made), str(bundle)))
        found = {**asdict(cell), "commit": commit(), "machine": machine(), "result": result}
        if _publish(json.dumps(found, indent=1), record):
            shutil.rmtree(bundle, ignore_errors=True)
            made.rename(bundle)


def _run(cell: Cell, options: argparse.Namespace, bundle: Path) -> str:
    """What ``quantize --json`` prints."""
    network, shared = (NETWORKS | FAMILIES)[cell.network], Path(options.shared)
    models = Path(options.models or shared / "models")
    command = [
        *(sys.executable, "-m", "lrq_deploy", "quantize", str(models / network.file)),
        f"--arch={models / network.arch}",
        *network.flags,
        *SETTINGS[cell.setting],
        f"--recipe={cell.recipe}",
        f"--method={cell.method}",
        f"--seed={cell.seed}",
        f"--images={shared / 'data' / network.images}",
        f"--out={bundle}",
        *([f"--cache={options.cache}"] if options.cache else []),
        *("--no-bench", "--force", "--json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{cell.name} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def commit() -> str:
    """Short name of the commit that is checked out."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def machine() -> str:
    """Cores and model of the processor."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":")[1].strip() if names else model
    return f"{os.cpu_count()} cores, {model}"


_OF_ALL_SEEDS = ("network", "setting", "recipe", "method")


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds; of one seed there is no deviation."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: list[float]) -> "Spread | None":
        """None where nothing was measured."""
        if not values:
            return None
        return cls(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Row:
    """All seeds of one cell: accuracies, drop and share of equal answers in per cent."""

    network: str
    setting: str
    recipe: str
    method: str
    seeds: list[int]
    float_accuracy: Spread | None
    student_accuracy: Spread | None
    drop: Spread | None
    same_answer: Spread | None
    seconds: Spread | None
    seconds_reused: Spread | None
    peak_memory_mib: float
    commits: list[str]
    machines: list[str]

    def markdown(self) -> str:
        """A line of the table."""
        about = (self.network, self.setting, self.recipe, self.method)
        accuracies = (self.float_accuracy, self.student_accuracy, self.drop, self.same_answer)
        cells = [
            *(*about, " ".join(map(str, self.seeds))),
            *(_text(spread, 2) for spread in accuracies),
            *(_text(spread, 0) for spread in (self.seconds, self.seconds_reused)),
            f"{self.peak_memory_mib:.0f}",
        ]
        return "| " + " | ".join(cells) + " |"


def _rows(results: list[dict[str, Any]]) -> list[Row]:
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for result in results:
        key = tuple(result[name] for name in _OF_ALL_SEEDS)
        groups.setdefault(key, []).append(result)
    return [_row(members) for _, members in sorted(groups.items())]


def _row(members: list[dict[str, Any]]) -> Row:
    def values(name: str) -> list[float]:
        return [m["result"][name] for m in members if m["result"][name] is not None]

    floats, students = values("teacher_accuracy"), values("student_accuracy")
    reused = [sum(m["result"].get("seconds_saved", {}).values()) for m in members]
    return Row(
        **{name: members[0][name] for name in _OF_ALL_SEEDS},
        seeds=[m["seed"] for m in members],
        float_accuracy=Spread.of(floats),
        student_accuracy=Spread.of(students),
        drop=Spread.of([a - b for a, b in zip(floats, students, strict=True)]),
        same_answer=Spread.of(values("agreement")),
        seconds=Spread.of([s + r for s, r in zip(values("seconds"), reused, strict=True)]),
        seconds_reused=Spread.of(reused) if any(reused) else None,
        peak_memory_mib=max(values("peak_memory_mib")),
        commits=sorted({m["commit"] for m in members}),
        machines=sorted({m["machine"] for m in members}),
    )


def _table(rows: list[Row]) -> str:
    lines = [
        "| network | setting | recipe | method | seeds | float | student | drop | same answer |"
        " seconds | of it reused | peak MiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
        *(row.markdown() for row in rows),
    ]
    commits = ", ".join(sorted({commit for row in rows for commit in row.commits}))
    machines = "; ".join(sorted({machine for row in rows for machine in row.machines}))
    return "\n".join([*lines, "", f"Commit {commits}; {machines}.", ""])


def _text(spread: Spread | None, digits: int) -> str:
    """``mean +- standard deviation``, ``-`` where nothing was measured."""
    if spread is None:
        return "-"
    mean = f"{spread.mean:.{digits}f}"
    return mean if spread.deviation is None else f"{mean} +- {spread.deviation:.{digits}f}"


if __name__ == "__main__":
    main()
