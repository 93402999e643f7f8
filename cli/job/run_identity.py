"""What a run was asked to do, as plain values that decide every byte of its bundle."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lrq_deploy import __version__
from lrq_deploy.calibration.fit import fit_student
from lrq_deploy.calibration.synthesize import synthesize
from lrq_deploy.checkpoint.fingerprint import fingerprint
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.resume.stage_key import code_digest, stage_key
from lrq_deploy.teacher import Teacher

__all__ = ["plain_options", "run_identity"]

# Where the bundle goes, and whether it replaces one, changes nothing in it; "auto" is no device.
WITHOUT_EFFECT = ("out", "force", "device")


def plain_options(options: QuantizeOptions) -> dict[str, Any]:
    """The options as they are written to files."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(options).items()
    }


def run_identity(
    options: QuantizeOptions,
    settings: RecipeSettings,
    teacher: Teacher,
    device: torch.device,
    processes: int = 1,
) -> dict[str, Any]:
    """Values by name; a run may continue another one where all of them agree.

    Args:
        options: of the run.
        settings: of its recipe.
        teacher: captured.
        device: where the run trains; which one of a type does not matter.
        processes: that share the work.
    """
    asked: dict[str, Any] = {}
    for name, value in {**plain_options(options), "settings": asdict(settings)}.items():
        if isinstance(value, dict):
            asked |= {f"{name}.{inner}": v for inner, v in value.items()}
        elif name not in WITHOUT_EFFECT:
            asked[name] = value
    return {
        **asked,
        "device": device.type,
        "teacher": fingerprint(teacher.graph.state_dict()),
        "graph": stage_key({"code": teacher.graph.code}),
        # A file beside the weights may state them, so the options do not tell.
        "input": stage_key(
            {"shape": teacher.input_shape, "preprocessing": asdict(teacher.preprocessing)}
        ),
        "processes": processes,
        "version": __version__,
        "torch": str(torch.__version__),
        "code": stage_key(
            {
                "images": code_digest(synthesize.__module__),
                "student": code_digest(fit_student.__module__),
            }
        ),
    }
