"""Make the synthetic set, or take it from a store where it was made before."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lrq_deploy.calibration import synthesize as stage
from lrq_deploy.checkpoint.fingerprint import fingerprint
from lrq_deploy.method.recipe import STUDENT_SETTINGS, RecipeSettings
from lrq_deploy.method.steps.context import StageContext
from lrq_deploy.options import MethodSwitches
from lrq_deploy.progress import ProgressEvent
from lrq_deploy.ranks import Ranks
from lrq_deploy.resume.stage_key import code_digest, stage_key
from lrq_deploy.resume.stage_store import StageStore
from lrq_deploy.synthetic import SyntheticSet
from lrq_deploy.teacher import Teacher

__all__ = ["MadeSet", "images_key", "synthesize_once"]

STAGE = "images"


@dataclass(frozen=True)
class MadeSet:
    """A synthetic set and what it cost.

    Attributes:
        synthetic: the images.
        seconds: wall time of making them, whenever that was.
        reused: whether they were taken from a store.
    """

    synthetic: SyntheticSet
    seconds: float
    reused: bool


def images_key(
    teacher: Teacher,
    settings: RecipeSettings,
    switches: MethodSwitches,
    seed: int,
    device: torch.device,
    processes: int = 1,
) -> str:
    """Key of the images: the same key, the same images on one machine.

    Nothing of the student's widths, rates or steps is in it. The thread count is not either:
    it changes last bits, not what the images are. The number of processes is: the generator's
    BatchNorms see a part of the batch each.
    """
    made_with = asdict(settings)
    for name in STUDENT_SETTINGS:
        del made_with[name]
    return stage_key(
        {
            "stage": STAGE,
            "code": code_digest(stage.__name__),
            "teacher": fingerprint(teacher.graph.state_dict()),
            "graph": teacher.graph.code,
            "input_shape": teacher.input_shape,
            "task": teacher.task,
            "preprocessing": asdict(teacher.preprocessing),
            "settings": made_with,
            "counts": [
                settings.generated_images,
                settings.painted_images,
                settings.painted_held_out,
            ],
            "long_range": switches.long_range,
            "image_source": switches.image_source,
            # The student's margin leaves the images as they are without one.
            "margin": "off" if switches.margin == "b" else switches.margin,
            "seed": seed,
            "device": device.type,
            "processes": processes,
            "torch": torch.__version__,
        }
    )


def synthesize_once(
    store: StageStore | None,
    teacher: Teacher,
    settings: RecipeSettings,
    switches: MethodSwitches,
    context: StageContext,
    pool_file: Path | None = None,
) -> MadeSet:
    """``synthesize``, unless ``store`` has its product.

    Several ranks take the product only where all of them find it; the first one keeps it.

    With ``pool_file`` the images stay on the disk: there while they are made, then in the store.

    Raises:
        UnsupportedNetworkError, DivergenceError: see ``synthesize``.
        OutputError: the store cannot be written.
    """
    ranks = context.ranks
    key = images_key(teacher, settings, switches, context.seed, context.device, ranks.count)
    found = _found(store, key, pool_file is not None, ranks)
    if store is not None and found is not None:
        message = f"reused from {store.folder}, which saves {found['seconds']:.1f} s"
        context.progress(ProgressEvent(STAGE, 1, 1, message=message))
        return MadeSet(SyntheticSet(**found["synthetic"]), found["seconds"], True)
    start = time.perf_counter()
    made = stage.synthesize(teacher, settings, switches, context, pool_file)
    seconds = time.perf_counter() - start
    if store is not None:
        product = {name: getattr(made, name) for name in SyntheticSet.__dataclass_fields__}
        kept = {"synthetic": product, "seconds": seconds}
        ranks.on_first(lambda: store.add(STAGE, key, kept))
        stored = None if pool_file is None else _found(store, key, True, ranks)
        if pool_file is not None and stored is not None:
            made = SyntheticSet(**stored["synthetic"])
            # The file is another one on each machine, or the same one for all.
            pool_file.unlink(missing_ok=True)
    return MadeSet(made, seconds, False)


def _found(store: StageStore | None, key: str, mapped: bool, ranks: Ranks) -> dict[str, Any] | None:
    """The product, where every rank finds it."""
    found = None if store is None else store.find(STAGE, key, mapped)
    return None if ranks.largest(found is None)[0] else found
