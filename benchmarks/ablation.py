"""What each part of the method is worth: one part changed at a time, the rest as it ships.

Every variant is one run of the pipeline in a process of its own, on one network of ``../shared``.
Images that variants share are made once (``--cache``). The measures need no labels: agreement with
the teacher and divergence of the softmax (KL, nats) on ``cifar10/train`` and ``photos``; the
accuracy on the test folder is reported beside them. ``angle`` is the mean angle in degrees
between the features of a synthetic image and the centre of its class, at the generator's last step.

    python benchmarks/ablation.py --network resnet20 --recipe fast --seeds 0 --variants "AMA off"
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from accuracy import NETWORKS, commit, machine
from profile_steps import model_options

LABEL_FREE = ("cifar10/train", "photos")


@dataclass(frozen=True)
class Variant:
    """One change: fields of ``MethodSwitches`` and of ``RecipeSettings``."""

    switches: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, float] = field(default_factory=dict)


VARIANTS = {
    "as shipped": Variant(),
    "generator without long-range attention": Variant({"long_range": False}),
    "AMA off": Variant({"margin": "off"}),
    "AMA A1": Variant({"margin": "a1"}),
    "AMA B": Variant({"margin": "b"}),
    "plain distillation": Variant({"decoupled": False}),
    "no diversity loss": Variant(settings={"diversity_weight": 0.0}),
    "images as drawn, not refined": Variant(settings={"refinement_steps": 0}),
    "steps as calibrated, not learned": Variant(settings={"scale_rate": 0.0}),
    "no loss on the input of the last layer": Variant(settings={"feature_weight": 0.0}),
    "the last step, not the mean": Variant(settings={"averaged_share": 0.0}),
    "rounding learned block by block": Variant(settings={"student_steps": 0, "block_steps": 300}),
    "ranges only": Variant(settings={"student_steps": 0}),
}


def main() -> None:
    """Run what is missing, then write the table."""
    options = _options()
    if options.variant is not None:
        print(json.dumps(measure(options)))
        return
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    for name in options.variants:
        for seed in options.seeds.split(","):
            record = (
                out / f"{options.network}-{options.recipe}-{name.replace(' ', '-')}-{seed}.json"
            )
            if not record.exists():
                print(f"running {name}, seed {seed}", file=sys.stderr, flush=True)
                _run(options, name, seed, record)
    results = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    (out / "ablation.md").write_text(table(results))
    print(table(results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", default="../shared")
    parser.add_argument("--out", default="runs/ablation")
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--cache", default="runs/ablation-cache")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=[*VARIANTS])
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(options: argparse.Namespace, name: str, seed: str, record: Path) -> None:
    command = [sys.executable, __file__, f"--variant={name}", f"--seeds={seed}"]
    for flag in ("shared", "out", "network", "recipe", "bits", "cache"):
        command.append(f"--{flag}={getattr(options, flag)}")
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    partial = record.with_suffix(".partial")
    partial.write_text(done.stdout.splitlines()[-1] + "\n")
    os.replace(partial, record)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Quantize with the variant and compare the bundle with the teacher."""
    from lrq_deploy.cli.pipeline import quantize
    from lrq_deploy.method.recipe import recipe_settings
    from lrq_deploy.resume.control import RunControl

    chosen = VARIANTS[options.variant]
    run = _quantize_options(options)
    run = replace(run, method=replace(run.method, **chosen.switches))
    settings = recipe_settings(run.recipe, run.input_shape)
    settings = replace(settings, **chosen.settings)  # type: ignore[arg-type]
    result = quantize(run, settings=settings, control=RunControl(cache=Path(options.cache)))
    data = Path(options.shared) / "data"
    manifest = json.loads((result.bundle_path / "manifest.json").read_text())
    return {
        "variant": options.variant,
        "network": options.network,
        "recipe": options.recipe,
        "bits": options.bits,
        "seed": run.seed,
        "commit": commit(),
        "machine": machine(),
        "generator": manifest["metrics"]["generator"],
        "seconds": result.seconds,
        "seconds_saved": result.seconds_saved,
        "teacher_accuracy": result.teacher_accuracy,
        "student_accuracy": result.student_accuracy,
        "label_free": {name: _label_free(run, result, data, name) for name in LABEL_FREE},
        "settings": asdict(settings),
    }


def _quantize_options(options: argparse.Namespace) -> Any:
    from lrq_deploy.cli.quantize_flags import QuantizeFlags, options_from

    network, shared = NETWORKS[options.network], Path(options.shared)
    loaded = model_options(network, shared)
    flags = QuantizeFlags(
        bits=options.bits,
        arch=loaded.arch,
        input_shape=loaded.input_shape,
        mean=loaded.mean,
        std=loaded.std,
        images=shared / "data" / network.images,
        recipe=options.recipe,
        seed=int(options.seeds),
        out=Path(options.out) / "bundles" / options.variant.replace(" ", "-"),
        force=True,
        bench=False,
    )
    return options_from(loaded.model, flags)


def _label_free(run: Any, result: Any, data: Path, folder: str) -> dict[str, float]:
    """Agreement (0..1) and KL (nats) of student and teacher on a folder; labels are not read."""
    import torch

    from lrq_deploy.cli.preparing import load_teacher
    from lrq_deploy.export.session import open_session
    from lrq_deploy.images import read_image_folder

    teacher = load_teacher(run)
    shape, preprocessing = teacher.input_shape, teacher.preprocessing
    images = read_image_folder(data / folder, shape, preprocessing, None)
    session = open_session(result.model_file.read_bytes())
    same = divergence = count = 0.0
    with torch.no_grad():
        for batch, _ in images.labelled_batches(64):
            ours = session.logits(batch).log_softmax(1)
            theirs = teacher.graph(batch).log_softmax(1)
            same += float((ours.argmax(1) == theirs.argmax(1)).sum())
            divergence += float((theirs.exp() * (theirs - ours)).sum())
            count += len(batch)
    return {"agreement": same / count, "kl": divergence / count}


def table(results: list[dict[str, Any]]) -> str:
    """Markdown, a row per variant in the order of ``VARIANTS``."""
    lines = [
        "| variant | seeds | drop | same on train % | KL train | same on photos % | KL photos |"
        " angle | fit and images s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in VARIANTS:
        rows = [r for r in results if r["variant"] == name]
        if rows:
            lines.append(_row(name, rows))
    commits = ", ".join(sorted({r["commit"] for r in results}))
    machines = "; ".join(sorted({r["machine"] for r in results}))
    return "\n".join([*lines, "", f"Commit {commits}; {machines}.", ""])


def _row(name: str, rows: list[dict[str, Any]]) -> str:
    free = [r["label_free"] for r in rows]
    measured = [r for r in rows if r["teacher_accuracy"] is not None]
    angles = [r["generator"]["angle"] for r in rows if "angle" in r["generator"]]
    values: list[tuple[list[float], int]] = [
        ([r["teacher_accuracy"] - r["student_accuracy"] for r in measured], 2)
    ]
    for folder in LABEL_FREE:
        values += [([100 * f[folder]["agreement"] for f in free], 2)]
        values += [([f[folder]["kl"] for f in free], 4)]
    values += [([math.degrees(angle) for angle in angles], 1)]
    values += [([r["seconds"] + sum(r["seconds_saved"].values()) for r in rows], 0)]
    seeds = " ".join(str(r["seed"]) for r in rows)
    cells = [name, seeds, *(_mean(numbers, digits) for numbers, digits in values)]
    return "| " + " | ".join(cells) + " |"


def _mean(numbers: list[float], digits: int) -> str:
    return f"{statistics.mean(numbers):.{digits}f}" if numbers else "-"


if __name__ == "__main__":
    main()
