"""The whole job: from options to a checked bundle. Data flows one way, stage by stage."""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from lrq_deploy.calibration.fit import fit_student
from lrq_deploy.calibration.image_pool import pool_bytes
from lrq_deploy.calibration.synthetic_store import MadeSet, synthesize_once
from lrq_deploy.cli.job.finishing import finish
from lrq_deploy.cli.job.mixed_widths import FileSizes, choose_widths, file_sizes
from lrq_deploy.cli.job.model_remarks import model_remarks
from lrq_deploy.cli.job.plain_torch import plain_torch
from lrq_deploy.cli.job.preparing import chosen_device, load_teacher
from lrq_deploy.cli.job.rehearsing import rehearse_student
from lrq_deploy.cli.job.result import QuantizeResult
from lrq_deploy.cli.job.run import Fitted, Prepared, Run
from lrq_deploy.cli.job.run_identity import run_identity
from lrq_deploy.cli.job.sensitivity_files import sensitivity_files
from lrq_deploy.cli.job.stage_clock import StageClock
from lrq_deploy.cli.result_files import write_files
from lrq_deploy.errors import BundleError, DivergenceError, OptionError, OutputError, WriteError
from lrq_deploy.export.bundle.manifest import Manifest
from lrq_deploy.export.bundle.output_directory import check_output, check_writable
from lrq_deploy.export.targets import TargetChoice, targets
from lrq_deploy.images import ImageSet, read_image_folder
from lrq_deploy.launch import launch
from lrq_deploy.method.chosen import chosen_settings
from lrq_deploy.method.images.normalisation import check_pixels
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.method.suited import suited
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.progress import ProgressCallback, StageProgress, silent
from lrq_deploy.ranks import Ranks, joined_ranks
from lrq_deploy.resume.control import RunControl
from lrq_deploy.resume.run_folder import RunFolder, run_folder_of
from lrq_deploy.resume.shared_keeper import SharedKeeper
from lrq_deploy.resume.stage_store import StageStore
from lrq_deploy.resume.stop_request import StopRequest
from lrq_deploy.student.freeze import frozen_model
from lrq_deploy.student.idle_options import idle_options
from lrq_deploy.student.placement import new_student
from lrq_deploy.synthetic import SyntheticSet
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
    with plain_torch(device), joined_ranks(launch(), device) as ranks:
        run = _begun(options, control, device, ranks, progress if ranks.first else silent)
        prepared = _prepared(run, network, settings)
        run = replace(run, options=prepared.options)
        about = (run.options, prepared.settings, prepared.teacher, device, ranks.count)
        # A notebook lives on where its run was stopped, and another process may continue it.
        with closing(run.folder):
            ranks.on_first(lambda: run.folder.begin(run_identity(*about)))
            with _last_good_kept(run):
                made = _made(run, prepared)
                fitted = _fitted(run, prepared, made.synthetic)
            return ranks.on_first(lambda: finish(run, prepared, made, fitted))


def _begun(
    options: QuantizeOptions,
    control: RunControl,
    device: torch.device,
    ranks: Ranks,
    progress: ProgressCallback,
) -> Run:
    """What the stages share; refuses to lose a bundle or the state of a run."""
    clock = StageClock()
    folder = RunFolder(run_folder_of(options.out), control)
    keeper = SharedKeeper(folder, ranks, control.stop or StopRequest())

    def check_free() -> None:
        if control.resume and not options.force:
            _check_unfinished(options.out)
        check_output(options.out, options.force)
        if control.cache is not None:
            _check_cache(control.cache, options.out, folder.folder)
        folder.check(options.force)

    ranks.on_first(check_free)
    choice = _targets(options, progress)
    return Run(options, choice, control, folder, keeper, device, ranks, progress, clock)


def _check_cache(cache: Path, *passing: Path) -> None:
    for folder in passing:
        if cache.resolve().is_relative_to(folder.resolve()):
            raise OptionError(
                "--cache must outlast the run: neither --out nor the state beside it may hold it",
                f"{cache} in {folder}",
                "pass --cache a folder of its own",
            )
    check_writable("--cache", cache)


def _check_unfinished(out: Path) -> None:
    """A bundle appears whole, in the end."""
    try:
        Manifest.read(out)
    except BundleError:
        return
    raise OutputError(
        "--resume continues a run that was stopped",
        f"{out}, whose run is finished: the bundle is there",
        f"look at it with lrq-deploy validate {shlex.quote(str(out))}, or choose another --out; "
        "--force without --resume runs again and replaces it",
    )


def _prepared(run: Run, network: nn.Module | None, settings: RecipeSettings | None) -> Prepared:
    ranks = run.ranks
    with run.clock.stage("load"):
        teacher = ranks.together(lambda: load_teacher(run.options, network))
        options = _suited(run, teacher)
        images = ranks.together(lambda: _read_images(options, teacher) if ranks.first else None)
        sizes = ranks.on_first(lambda: _sizes(run, teacher, options))
        pixels = ranks.on_first(lambda: check_pixels(teacher))
        remarks = ranks.on_first(lambda: model_remarks(teacher, pixels, run.progress))
    with run.clock.stage("rehearse"):
        remarks += ranks.on_first(lambda: _rehearse(run, teacher))
    settings = chosen_settings(options, teacher.input_shape, settings)
    ranks.check_batch(settings.batch_size)
    return Prepared(options, teacher, settings, images, sizes, pixels, remarks)


def _sizes(run: Run, teacher: Teacher, options: QuantizeOptions) -> FileSizes | None:
    if options.target_size is None:
        return None
    return file_sizes(teacher, options, run.choice.limits)


def _suited(run: Run, teacher: Teacher) -> QuantizeOptions:
    options = suited(run.options, teacher)
    if options != run.options:
        said = f"no BatchNorm to train a generator on: --method {options.method_name}"
        StageProgress(run.progress, "load", 1).advance(message=said)
    return options


def _rehearse(run: Run, teacher: Teacher) -> tuple[str, ...]:
    """Training would be lost where its graphs cannot be written, and wasted by idle options."""
    report = StageProgress(run.progress, "rehearse", 1)
    scheme = run.options.scheme
    student = new_student(teacher, scheme, run.choice.limits)
    idle = idle_options(student, scheme)
    for remark in idle:
        report.say(remark)
    rehearse_student(student, scheme, teacher, run.choice.targets)
    report.advance()
    return idle


def _read_images(options: QuantizeOptions, teacher: Teacher) -> ImageSet | None:
    if options.images is None:
        return None
    classes = teacher.num_classes if teacher.task == "multiclass" else None
    return read_image_folder(
        options.images,
        teacher.input_shape,
        teacher.preprocessing,
        classes,
        class_names=teacher.class_names,
    )


def _made(run: Run, prepared: Prepared) -> MadeSet:
    """The synthetic images."""
    teacher, settings = prepared.teacher, prepared.settings
    size = pool_bytes(settings.all_images, teacher.input_shape)
    with run.clock.stage("synthesize"):
        made = synthesize_once(
            StageStore(run.control.cache or run.folder.folder),
            teacher,
            settings,
            run.options.method,
            run.context,
            run.ranks.on_first(lambda: run.folder.pool_file(size)),
        )
        run.keeper.release("generator", "images")
    return made


def _fitted(run: Run, prepared: Prepared, synthetic: SyntheticSet) -> Fitted:
    teacher = prepared.teacher
    options, tables = run.ranks.on_first(lambda: _with_widths(run, prepared, synthetic))
    symmetric = options.scheme.act_symmetry == "symmetric"
    with run.clock.stage("fit"):
        student = new_student(teacher, options.scheme, run.choice.limits)
        metrics = fit_student(
            student,
            synthetic,
            prepared.settings,
            options.method,
            symmetric,
            teacher.task,
            run.context,
        )
        model = frozen_model(student, options.scheme, teacher)
        run.keeper.release()
    return Fitted(options, model, metrics, tables)


def _with_widths(
    run: Run, prepared: Prepared, synthetic: SyntheticSet
) -> tuple[QuantizeOptions, dict[str, bytes]]:
    """The options with a width per layer, and the files that say why; as given without sizes."""
    if prepared.sizes is None:
        return run.options, {}
    with run.clock.stage("sensitivity"):
        scheme, table = choose_widths(
            prepared.teacher,
            prepared.sizes,
            synthetic.images,
            run.options,
            run.choice.limits,
            run.progress,
        )
    return replace(run.options, scheme=scheme), sensitivity_files(table)


@contextmanager
def _last_good_kept(run: Run) -> Iterator[None]:
    """On divergence, write the state that the error carries, if any, beside the failed bundle.

    What was kept of the run goes: it leads to the same end.
    """
    try:
        yield
    except DivergenceError as error:
        if run.ranks.first:
            run.folder.remove()
        if not error.state:
            raise
        where = _last_good_written(run.options.out, error.state) if run.ranks.first else ""
        remedy = f"{error.remedy}{where}"
        raise DivergenceError(error.rule, error.received, remedy, error.state) from error


def _last_good_written(out: Path, state: Mapping[str, Tensor]) -> str:
    """Where the state is, or why it is not, as the end of a sentence that says that it was kept."""
    name = f"{out.name}.last-good.safetensors"
    try:
        write_files(out.parent, {name: save({n: t.contiguous() for n, t in state.items()})})
    except WriteError as refusal:
        return f", but could not be written: {refusal.received}"
    return f"; it is in {out.with_name(name)}"


def _targets(options: QuantizeOptions, progress: ProgressCallback) -> TargetChoice:
    """Choose the runtimes, and say at once which one is left out."""
    choice = targets().choose(options.target, options.scheme)
    sentences = choice.describe_refused()
    if sentences:
        StageProgress(progress, "targets", 1).advance(message="; ".join(sentences))
    return choice
