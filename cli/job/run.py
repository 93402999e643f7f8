"""One run of ``quantize``: what its stages share, and what each hands to the next."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lrq_deploy.cli.job.mixed_widths import FileSizes
from lrq_deploy.cli.job.stage_clock import StageClock
from lrq_deploy.export.targets import TargetChoice
from lrq_deploy.images import ImageSet
from lrq_deploy.method.images.normalisation import PixelCheck
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.method.steps.context import StageContext
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.progress import ProgressCallback
from lrq_deploy.ranks import Ranks
from lrq_deploy.resume.control import RunControl
from lrq_deploy.resume.run_folder import RunFolder
from lrq_deploy.resume.shared_keeper import SharedKeeper
from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.teacher import Teacher

__all__ = ["Fitted", "Prepared", "Run"]


@dataclass(frozen=True)
class Run:
    """What every stage works with.

    Attributes:
        options: of the run.
        choice: runtimes to write graphs for.
        control: what the run keeps and reuses.
        folder: with the state of the run.
        keeper: keeps the state of a stage there, for all ranks.
        device: where to train.
        ranks: that share the run; the first alone checks, measures and writes.
        progress: receives the events of every stage.
        clock: times the stages.
    """

    options: QuantizeOptions
    choice: TargetChoice
    control: RunControl
    folder: RunFolder
    keeper: SharedKeeper
    device: torch.device
    ranks: Ranks
    progress: ProgressCallback
    clock: StageClock

    @property
    def context(self) -> StageContext:
        """What the stages of training work with."""
        return StageContext(self.options.seed, self.device, self.progress, self.keeper, self.ranks)


@dataclass(frozen=True)
class Prepared:
    """Everything that is read and checked before work begins.

    Attributes:
        options: of the run, with a method that suits the teacher.
        teacher: captured.
        settings: work and step sizes.
        images: those of the user, on the first rank.
        sizes: of the files, where widths are chosen to fit a target.
        pixels: what the first BatchNorm has against how they are read.
        remarks: on the model and how it is read, which the user should know.
    """

    options: QuantizeOptions
    teacher: Teacher
    settings: RecipeSettings
    images: ImageSet | None
    sizes: FileSizes | None
    pixels: PixelCheck
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fitted:
    """The student.

    Attributes:
        options: those of the run, with a width per layer where widths were chosen.
        model: the student, frozen.
        metrics: loss terms of the fit.
        tables: files of the bundle that say why each layer has its width.
    """

    options: QuantizeOptions
    model: QuantizedModel
    metrics: Mapping[str, float]
    tables: Mapping[str, bytes]
