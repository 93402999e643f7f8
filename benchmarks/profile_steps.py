"""Where the time of a step of each stage goes, by torch's profiler.

    python benchmarks/profile_steps.py --shared ../shared --network resnet20 --threads 1

Prints Markdown: milliseconds per step, and the share of the operators that take most.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from accuracy import NETWORKS, Network

from lrq_deploy.calibration.drawing import ImageDrawing
from lrq_deploy.calibration.image_pool import ImagePool
from lrq_deploy.calibration.observe import calibrate
from lrq_deploy.cli.job.preparing import load_teacher
from lrq_deploy.graph.statistics import tap_batch_norms
from lrq_deploy.method.fitting.augmented_batches import VIEWS
from lrq_deploy.method.fitting.student_training import StudentTraining
from lrq_deploy.method.images.generator import LongRangeGenerator
from lrq_deploy.method.images.generator_training import GeneratorTraining
from lrq_deploy.method.recipe import RecipeSettings, recipe_settings
from lrq_deploy.method.steps.back_off import BackOff, RepeatableStage
from lrq_deploy.method.steps.context import StageContext
from lrq_deploy.options import MethodSwitches, QuantizeOptions
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.layers import float_twin
from lrq_deploy.student.placement import new_student
from lrq_deploy.target import PORTABLE
from lrq_deploy.teacher import Teacher

CONTEXT = StageContext(0, torch.device("cpu"))
STEPS = 3
SHOWN = 8


def main() -> None:
    """Profile the three steps of one network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", default="../shared")
    parser.add_argument("--network", default="resnet20", choices=sorted(NETWORKS))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = model_options(NETWORKS[options.network], Path(options.shared))
    for name, step in our_steps(load_teacher(model)).items():
        _profile(name, step)


def model_options(network: Network, shared: Path, models: Path | None = None) -> QuantizeOptions:
    """Options that load a network of the accuracy benchmark, from ``models`` where it is given."""
    flags = dict(flag.removeprefix("--").split("=") for flag in network.flags)
    height, width = (int(n) for n in flags["input-shape"].split(",")[1:])
    return QuantizeOptions(
        (models or shared / "models") / network.file,
        Path("unused"),
        arch=str(shared / "models" / network.arch),
        input_shape=(3, height, width),
        mean=tuple(float(x) for x in flags["mean"].split(",")),
        std=tuple(float(x) for x in flags["std"].split(",")),
    )


def our_steps(
    teacher: Teacher, settings: RecipeSettings | None = None, asking: int = 40
) -> dict[str, Callable[[], None]]:
    """One step of each stage at W4A4, at the settings of ``balanced`` unless others are given.

    The first ``asking`` steps of ``first student`` ask the teacher, or some more; those of
    ``student`` know its answers.
    """
    settings = settings or recipe_settings("balanced", teacher.input_shape)
    switches = MethodSwitches()
    tapped = tap_batch_norms(teacher.graph)
    tapped.graph.to(memory_format=torch.channels_last)
    about = (teacher.input_shape, teacher.num_classes, teacher.preprocessing)
    generator = LongRangeGenerator(*about).to(memory_format=torch.channels_last)
    pool = torch.randn(max(asking * settings.batch_size // VIEWS, 64), *teacher.input_shape)
    student = new_student(teacher, Scheme(), PORTABLE)
    calibrate(student, pool[:64], True, 0)

    def student_step(pool: torch.Tensor) -> Callable[[], None]:
        mine = copy.deepcopy(student)
        twin = float_twin(mine)
        overlays = pool[: settings.overlay_images]
        stage = StudentTraining(
            mine, twin, pool, settings, switches, "multiclass", CONTEXT, overlays
        )
        return _steps_of(stage)

    later = student_step(pool[: settings.batch_size])
    for _ in range(VIEWS):
        later()
    images = ImagePool(settings.generated_images, teacher.input_shape)
    places = torch.arange(len(images.images))
    drawing = ImageDrawing(generator, tapped, settings, CONTEXT, images, places)
    return {
        "generator": _steps_of(GeneratorTraining(generator, tapped, settings, "a2", CONTEXT)),
        "refinement": _steps_of(drawing),
        "first student": student_step(pool),
        "student": later,
    }


def _steps_of(stage: RepeatableStage) -> Callable[[], None]:
    return BackOff(stage, lambda message: None).step


def _profile(name: str, step: Callable[[], None]) -> None:
    step()
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    milliseconds = 1000 * (time.perf_counter() - start) / STEPS
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    events = sorted(profile.key_averages(), key=lambda e: -e.self_cpu_time_total)
    whole = sum(event.self_cpu_time_total for event in events)
    print(f"\n{name} step: {milliseconds:.0f} ms\n\n| operator | share | calls |\n|---|---|---|")
    for event in events[:SHOWN]:
        share = 100 * event.self_cpu_time_total / whole
        print(f"| `{event.key}` | {share:.0f} % | {event.count} |")


if __name__ == "__main__":
    main()
