"""The whole job: from options to a checked bundle. Data flows one way, stage by stage."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from lrq_deploy.calibration.fit import fit_student
from lrq_deploy.calibration.image_pool import pool_bytes
from lrq_deploy.calibration.synthetic_store import MadeSet, synthesize_once
from lrq_deploy.cli.finishing import finish
from lrq_deploy.cli.mixed_widths import FileSizes, choose_widths, file_sizes
from lrq_deploy.cli.preparing import chosen_device, load_teacher
from lrq_deploy.cli.result import QuantizeResult
from lrq_deploy.cli.run_identity import run_identity
from lrq_deploy.cli.sensitivity import table_files
from lrq_deploy.cli.stage_clock import StageClock
from lrq_deploy.errors import DivergenceError
from lrq_deploy.export.bundle import check_output
from lrq_deploy.export.targets import TargetChoice, targets
from lrq_deploy.graph.fold_batch_norm import fold_batch_norm
from lrq_deploy.graph.placement import place_quantizers
from lrq_deploy.images import ImageSet, read_image_folder
from lrq_deploy.launch import launch
from lrq_deploy.method.methods import method_settings
from lrq_deploy.method.recipe import RecipeSettings, recipe_settings
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.progress import ProgressCallback, StageProgress, silent
from lrq_deploy.ranks import Ranks, joined_ranks
from lrq_deploy.resume.control import RunControl
from lrq_deploy.resume.run_folder import RunFolder, run_folder_of
from lrq_deploy.resume.shared_keeper import SharedKeeper
from lrq_deploy.resume.stage_store import StageStore
from lrq_deploy.resume.stop_request import StopRequest
from lrq_deploy.student.freeze import frozen_model
from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.synthetic import SyntheticSet
from lrq_deploy.target import TargetDescription
from lrq_deploy.teacher import Teacher

__all__ = ["quantize"]


def quantize(
    options: QuantizeOptions,
    progress: ProgressCallback = silent,
    network: nn.Module | None = None,
    settings: RecipeSettings | None = None,
    control: RunControl | None = None,
) -> QuantizeResult:
    """Quantize a network and write its bundle.

    Args:
        options: of the run.
        progress: receives the events of every stage.
        network: a trained network in memory; ``options.model`` then only names it.
        settings: work and step sizes; those of the recipe and the method, if not given.
        control: what the run keeps and reuses; the defaults, if not given.

    Raises:
        LrqError: an option, the model, the images or the output cannot be used (nothing is
            written then), the training diverges, or the exported graph misses the parity bound.
    """
    control = control or RunControl()
    control = replace(control, stop=control.stop or StopRequest())
    device = chosen_device(options.device)
    with joined_ranks(launch(), device) as ranks:
        told = progress if ranks.first else silent
        return _quantize(options, told, network, settings, control, device, ranks)


def _quantize(
    options: QuantizeOptions,
    progress: ProgressCallback,
    network: nn.Module | None,
    settings: RecipeSettings | None,
    control: RunControl,
    device: torch.device,
    ranks: Ranks,
) -> QuantizeResult:
    """``quantize`` on one of the ranks; the first alone checks, measures and writes."""
    clock = StageClock()
    folder = RunFolder(run_folder_of(options.out), control)
    keeper = SharedKeeper(folder, ranks, control.stop or StopRequest())
    ranks.on_first(lambda: _check_free(options, folder))
    choice = _targets(options, progress)
    with clock.stage("load"):
        teacher = ranks.together(lambda: load_teacher(options, network))
        images = ranks.together(lambda: _read_images(options, teacher) if ranks.first else None)
        sizes = ranks.on_first(lambda: _sizes(options, teacher))
    settings = settings or _settings(options, teacher)
    ranks.check_batch(settings.batch_size)
    identity = run_identity(options, settings, teacher, ranks.count)
    ranks.on_first(lambda: folder.begin(identity))
    with _last_good_kept(options.out, folder, ranks):
        with clock.stage("synthesize"):
            made = _made(
                teacher, options, settings, control, folder, keeper, device, progress, ranks
            )
            keeper.release("generator", "images")
        chosen, tables = ranks.on_first(
            lambda: _with_widths(options, sizes, teacher, made.synthetic, clock, progress)
        )
        with clock.stage("fit"):
            model, fit_metrics = _fit(
                teacher,
                made.synthetic,
                chosen,
                choice.limits,
                settings,
                device,
                progress,
                keeper,
                ranks,
            )
            keeper.release()
    return ranks.on_first(
        lambda: finish(
            options,
            chosen,
            teacher,
            model,
            fit_metrics,
            made,
            images,
            choice,
            tables,
            folder,
            clock,
            progress,
        )
    )


def _check_free(options: QuantizeOptions, folder: RunFolder) -> None:
    """Refuse to lose a bundle or the state of a run."""
    check_output(options.out, options.force)
    folder.check(options.force)


def _settings(options: QuantizeOptions, teacher: Teacher) -> RecipeSettings:
    settings = recipe_settings(options.recipe, teacher.input_shape)
    return method_settings(options.method_name, settings)


def _sizes(options: QuantizeOptions, teacher: Teacher) -> FileSizes | None:
    return None if options.target_size is None else file_sizes(teacher, options)


def _made(
    teacher: Teacher,
    options: QuantizeOptions,
    settings: RecipeSettings,
    control: RunControl,
    folder: RunFolder,
    keeper: SharedKeeper,
    device: torch.device,
    progress: ProgressCallback,
    ranks: Ranks,
) -> MadeSet:
    count = settings.pool_images + settings.held_out_images
    size = pool_bytes(count, teacher.input_shape)
    return synthesize_once(
        StageStore(control.cache or folder.folder),
        teacher,
        settings,
        options.method,
        options.seed,
        device,
        progress,
        keeper,
        ranks.on_first(lambda: folder.pool_file(size)),
        ranks,
    )


def _read_images(options: QuantizeOptions, teacher: Teacher) -> ImageSet | None:
    if options.images is None:
        return None
    classes = teacher.num_classes if teacher.task == "multiclass" else None
    return read_image_folder(options.images, teacher.input_shape, teacher.preprocessing, classes)


def _with_widths(
    options: QuantizeOptions,
    sizes: FileSizes | None,
    teacher: Teacher,
    synthetic: SyntheticSet,
    clock: StageClock,
    progress: ProgressCallback,
) -> tuple[QuantizeOptions, dict[str, bytes]]:
    """The options with a width per layer, and the files that say why; as given without sizes."""
    if sizes is None:
        return options, {}
    with clock.stage("sensitivity"):
        scheme, table = choose_widths(teacher, sizes, synthetic.images, options, progress)
    return replace(options, scheme=scheme), table_files(table)


def _fit(
    teacher: Teacher,
    synthetic: SyntheticSet,
    options: QuantizeOptions,
    limits: TargetDescription,
    settings: RecipeSettings,
    device: torch.device,
    progress: ProgressCallback,
    keeper: SharedKeeper,
    ranks: Ranks,
) -> tuple[QuantizedModel, dict[str, float]]:
    folded = fold_batch_norm(teacher.graph)
    student = place_quantizers(folded, options.scheme, limits, teacher.preprocessing)
    metrics = fit_student(
        student,
        synthetic,
        settings,
        options.method,
        options.scheme.act_symmetry == "symmetric",
        teacher.task,
        options.seed,
        device,
        progress,
        keeper,
        ranks,
    )
    return frozen_model(student, options.scheme, teacher), metrics


@contextmanager
def _last_good_kept(out: Path, folder: RunFolder, ranks: Ranks) -> Iterator[None]:
    """On divergence, write the state that the error carries beside the bundle that failed.

    What was kept of the run goes: it leads to the same end.
    """
    try:
        yield
    except DivergenceError as error:
        path = out.with_name(f"{out.name}.last-good.safetensors")
        if ranks.first:
            path.parent.mkdir(parents=True, exist_ok=True)
            folder.remove()
            save_file({name: t.cpu().contiguous() for name, t in error.state.items()}, path)
        remedy = f"{error.remedy}; it is in {path}"
        raise DivergenceError(error.rule, error.received, remedy, error.state) from error


def _targets(options: QuantizeOptions, progress: ProgressCallback) -> TargetChoice:
    """Choose the runtimes, and say at once which one is left out."""
    choice = targets().choose(options.target, options.scheme)
    sentences = choice.describe_refused()
    if sentences:
        StageProgress(progress, "targets", 1).advance(message="; ".join(sentences))
    return choice
