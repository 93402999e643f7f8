"""What each part of the method is worth: one part changed at a time, the rest as it ships.

Every variant is one run of the pipeline in a process of its own. Images that variants share are
made once (``--cache``). The measures need no labels: agreement with the teacher and divergence of
the softmax (KL, nats) on ``cifar10/train`` and ``photos``; the accuracy on the network's own folder
is reported beside them, and left out by ``--no-accuracy`` where a setting is to be chosen.
``angle`` is the mean angle in degrees between the features of a synthetic image and the centre of
its class, at the generator's last step.

    python benchmarks/ablation.py --networks resnet20 --recipe fast --seeds 0 --variants "AMA off"

A variant is also any change of a recipe's settings, and a network any of ``accuracy.py``:

    python benchmarks/families.py --out runs/families --networks densenet
    python benchmarks/ablation.py --networks densenet --models runs/families --no-accuracy \
        --variants "as shipped" weight_rate=3e-3 weight_rate=3e-3,student_steps=800
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from accuracy import FAMILIES, NETWORKS, SETTINGS, commit, machine
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
    "images refined in 30 steps": Variant(settings={"refinement_steps": 30}),
    "images not blended with painted ones": Variant(settings={"overlay_images": 0}),
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
    variants = {name: variant(name) for name in options.variants}
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    for network in options.networks.split(","):
        for name in variants:
            for seed in options.seeds.split(","):
                cell = cell_name(network, options.setting, options.recipe, name, seed)
                record = out / f"{cell}.json"
                if not record.exists():
                    print(f"running {cell}", file=sys.stderr, flush=True)
                    _run(options, network, name, seed, record)
    results = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    (out / "ablation.md").write_text(table(results))
    print(table(results))


def cell_name(*about: str) -> str:
    """File name of one run's record and bundle: runs beside each other must not share it."""
    return "-".join(about).replace(" ", "-")


def variant(name: str) -> Variant:
    """That of ``VARIANTS``, or the settings that ``FIELD=VALUE,...`` states."""
    if name in VARIANTS:
        return VARIANTS[name]
    settings: dict[str, float] = {}
    types: dict[str, Any] = {f.name: f.type for f in fields(_recipe_settings())}
    for change in name.split(","):
        field_name, _, value = change.partition("=")
        try:
            settings[field_name] = {int: int, float: float}[types[field_name]](value)
        except (KeyError, ValueError):
            sys.exit(
                f"--variants takes {', '.join(VARIANTS)} or FIELD=VALUE,... of the numbers of "
                f"RecipeSettings, got {name!r}"
            )
    return Variant(settings=settings)


def _recipe_settings() -> type:
    from lrq_deploy.method.recipe import RecipeSettings

    return RecipeSettings


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", default="../shared")
    parser.add_argument("--models", help="folder of the checkpoints; that of --shared if left out")
    parser.add_argument("--out", default="runs/ablation")
    parser.add_argument("--networks", default="resnet20")
    parser.add_argument("--setting", default="w4a4", choices=SETTINGS)
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--cache", default="runs/ablation-cache")
    parser.add_argument("--accuracy", default=True, action=argparse.BooleanOptionalAction)
    parser.add_argument("--variants", nargs="+", default=[*VARIANTS])
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(options: argparse.Namespace, network: str, name: str, seed: str, record: Path) -> None:
    command = [sys.executable, __file__, f"--variant={name}", f"--seeds={seed}"]
    command.append(f"--networks={network}")
    command.append("--accuracy" if options.accuracy else "--no-accuracy")
    for flag in ("shared", "models", "out", "setting", "recipe", "cache"):
        if getattr(options, flag) is not None:
            command.append(f"--{flag}={getattr(options, flag)}")
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    partial = record.with_suffix(".partial")
    partial.write_text(done.stdout.splitlines()[-1] + "\n")
    os.replace(partial, record)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Quantize with the variant and compare the bundle with the teacher."""
    from lrq_deploy.cli.job.pipeline import quantize
    from lrq_deploy.method.chosen import chosen_settings
    from lrq_deploy.resume.control import RunControl

    chosen = variant(options.variant)
    run = _quantize_options(options)
    run = replace(run, method=replace(run.method, **chosen.switches))
    settings = replace(chosen_settings(run, run.input_shape), **chosen.settings)  # type: ignore[arg-type]
    result = quantize(run, settings=settings, control=RunControl(cache=Path(options.cache)))
    data = Path(options.shared) / "data"
    manifest = json.loads((result.bundle_path / "manifest.json").read_text())
    return {
        "variant": options.variant,
        "network": options.networks,
        "setting": options.setting,
        "recipe": options.recipe,
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
    from lrq_deploy.cli.flags.quantize_flags import QuantizeFlags, options_from

    network, shared = (NETWORKS | FAMILIES)[options.networks], Path(options.shared)
    loaded = model_options(network, shared, options.models and Path(options.models))
    about = (options.networks, options.setting, options.recipe, options.variant, options.seeds)
    scheme = (flag.removeprefix("--").split("=") for flag in SETTINGS[options.setting])
    flags = QuantizeFlags(
        **{name.replace("-", "_"): _number(value) for name, value in scheme},
        arch=loaded.arch,
        input_shape=loaded.input_shape,
        mean=loaded.mean,
        std=loaded.std,
        images=shared / "data" / network.images if options.accuracy else None,
        recipe=options.recipe,
        seed=int(options.seeds),
        out=Path(options.out) / "bundles" / cell_name(*about),
        force=True,
        bench=False,
    )
    return options_from(loaded.model, flags)


def _number(value: str) -> Any:
    return int(value) if value.isdecimal() else value


def _label_free(run: Any, result: Any, data: Path, folder: str) -> dict[str, float]:
    """Agreement (0..1) and KL (nats) of student and teacher on a folder; labels are not read."""
    import torch

    from lrq_deploy.cli.job.preparing import load_teacher
    from lrq_deploy.export.runtime.session import open_session
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
    """Markdown, a row per network, setting, recipe and variant, in the order of ``VARIANTS``."""
    lines = [
        "| network | setting | recipe | variant | seeds | drop | same on train % | KL train |"
        " same on photos % | KL photos | angle | fit and images s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str, str, str], list[dict[str, Any]]] = {}
    for result in results:
        key = (result["network"], result["setting"], result["recipe"], result["variant"])
        groups.setdefault(key, []).append(result)
    known = [*VARIANTS]

    def place(key: tuple[str, str, str, str]) -> tuple[Any, ...]:
        return key[:3], known.index(key[3]) if key[3] in known else len(known), key[3]

    lines += [_row(key, groups[key]) for key in sorted(groups, key=place)]
    commits = ", ".join(sorted({r["commit"] for r in results}))
    machines = "; ".join(sorted({r["machine"] for r in results}))
    return "\n".join([*lines, "", f"Commit {commits}; {machines}.", ""])


def _row(key: tuple[str, ...], rows: list[dict[str, Any]]) -> str:
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
    cells = [*key, seeds, *(_mean(numbers, digits) for numbers, digits in values)]
    return "| " + " | ".join(cells) + " |"


def _mean(numbers: list[float], digits: int) -> str:
    return f"{statistics.mean(numbers):.{digits}f}" if numbers else "-"


if __name__ == "__main__":
    main()
