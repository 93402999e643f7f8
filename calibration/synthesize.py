"""Make the synthetic set: train a generator on the teacher, then draw from it."""

import torch
from torch import Tensor

from lrq_deploy.graph.statistics import TappedTeacher, tap_batch_norms
from lrq_deploy.method.generator import LATENT_SIZE, LongRangeGenerator
from lrq_deploy.method.generator_training import train_generator
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.method.refinement import refine
from lrq_deploy.options import MethodSwitches
from lrq_deploy.progress import ProgressCallback, StageProgress
from lrq_deploy.synthetic import SyntheticSet
from lrq_deploy.teacher import Teacher

__all__ = ["synthesize"]


def synthesize(
    teacher: Teacher,
    settings: RecipeSettings,
    switches: MethodSwitches,
    seed: int,
    device: torch.device,
    progress: ProgressCallback,
) -> SyntheticSet:
    """Images from the teacher alone; the same seed, device and thread count give the same.

    Raises:
        UnsupportedNetworkError: the teacher has no BatchNorm.
        DivergenceError: the generator's loss is not finite.
    """
    tapped = _on_device(tap_batch_norms(teacher.graph), device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = LongRangeGenerator(
            teacher.input_shape, teacher.num_classes, teacher.preprocessing, switches.long_range
        )
    generator.to(device).to(memory_format=torch.channels_last)
    margin = "off" if switches.margin == "b" else switches.margin
    metrics = train_generator(generator, tapped, settings, margin, seed, device, progress)
    images, labels = _draw(generator, tapped, settings, seed + 1, device, progress)
    fit, held_out = images.split([settings.pool_images, settings.held_out_images])
    return SyntheticSet(fit, labels[: settings.pool_images], held_out, metrics)


def _on_device(tapped: TappedTeacher, device: torch.device) -> TappedTeacher:
    tapped.graph.to(device).to(memory_format=torch.channels_last)
    classifier = tapped.classifier
    return TappedTeacher(
        tapped.graph,
        tuple(type(s)(s.mean.to(device), s.var.to(device)) for s in tapped.statistics),
        None
        if classifier is None
        else type(classifier)(
            classifier.weight.to(device),
            None if classifier.bias is None else classifier.bias.to(device),
        ),
    )


def _draw(
    generator: LongRangeGenerator,
    teacher: TappedTeacher,
    settings: RecipeSettings,
    seed: int,
    device: torch.device,
    progress: ProgressCallback,
) -> tuple[Tensor, Tensor]:
    """Refined images ``[N, C, H, W]`` on the CPU and their labels, pool and held-out.

    The generator stays in training mode: its BatchNorms then use the statistics of the batch,
    as while it was trained.
    """
    random = torch.Generator().manual_seed(seed)
    images: list[Tensor] = []
    labels: list[Tensor] = []
    count = settings.pool_images + settings.held_out_images
    size = settings.batch_size
    batches = -(-count // size)
    report = StageProgress(progress, "images", batches, size)
    for _ in range(batches):
        wanted = torch.randint(generator.num_classes, (size,), generator=random)
        latent = torch.randn(size, LATENT_SIZE, generator=random).to(device)
        target = wanted.to(device)
        with torch.no_grad():
            drawn = generator(latent, generator.embed(target))
        images.append(refine(drawn, target, teacher, settings, generator.bounds()).cpu())
        labels.append(wanted)
        report.advance()
    return torch.cat(images)[:count].contiguous(), torch.cat(labels)[:count]
