"""The whole job: from options to a checked bundle. Data flows one way, stage by stage."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from safetensors.torch import save_file
from torch import nn

from lrq_deploy.calibration.fit import fit_student
from lrq_deploy.calibration.image_pool import pool_bytes
from lrq_deploy.calibration.synthetic_store import MadeSet, synthesize_once
from lrq_deploy.cli.checking import Checked, check
from lrq_deploy.cli.improvement import improvements
from lrq_deploy.cli.mixed_widths import FileSizes, choose_widths, file_sizes
from lrq_deploy.cli.preparing import chosen_device, load_teacher
from lrq_deploy.cli.result import QuantizeResult
from lrq_deploy.cli.run_identity import plain_options, run_identity
from lrq_deploy.cli.sensitivity import table_files
from lrq_deploy.cli.verdict import judge, next_commands
from lrq_deploy.errors import DivergenceError
from lrq_deploy.export.bundle import check_output, write_bundle
from lrq_deploy.export.float_twin import float_twin
from lrq_deploy.export.neutral import neutral_graph
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.export.targets import REFERENCE, TargetChoice, targets
from lrq_deploy.graph.fold_batch_norm import fold_batch_norm
from lrq_deploy.graph.placement import place_quantizers
from lrq_deploy.images import ImageSet, read_image_folder
from lrq_deploy.method.methods import method_settings
from lrq_deploy.method.recipe import RecipeSettings, recipe_settings
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.progress import ProgressCallback, StageProgress, silent
from lrq_deploy.resume.control import RunControl
from lrq_deploy.resume.run_folder import RunFolder, run_folder_of
from lrq_deploy.resume.stage_store import StageStore
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
    clock = _Clock()
    control = control or RunControl()
    check_output(options.out, options.force)
    keeper = RunFolder(run_folder_of(options.out), control)
    keeper.check(options.force)
    choice = _targets(options, progress)
    device = chosen_device(options.device)
    with clock.stage("load"):
        teacher = load_teacher(options, network)
        images = None if options.images is None else _read_images(options.images, teacher)
        sizes = None if options.target_size is None else file_sizes(teacher, options)
    if settings is None:
        settings = recipe_settings(options.recipe, teacher.input_shape)
        settings = method_settings(options.method_name, settings)
    keeper.begin(run_identity(options, settings, teacher))
    with _last_good_kept(options.out, keeper):
        with clock.stage("synthesize"):
            made = _made(teacher, options, settings, control, keeper, device, progress)
            synthetic = made.synthetic
            keeper.release("generator", "images")
        chosen, tables = _with_widths(options, sizes, teacher, synthetic, clock, progress)
        with clock.stage("fit"):
            model, fit_metrics = _fit(
                teacher, synthetic, chosen, choice.limits, settings, device, progress, keeper
            )
            keeper.release()
    with clock.stage("export"):
        neutral = neutral_graph(model)
        graphs = _graphs(model, neutral, choice, progress)
        twin = _serialised(float_twin(model, neutral)) if options.bench else None
    with clock.stage("check"):
        checked = check(teacher, model, graphs, twin, synthetic, images, progress)
    metrics = {
        "generator": synthetic.metrics,
        "student": fit_metrics,
        **_checked_metrics(checked, choice),
        "seconds": clock.seconds,
        "seconds_saved": _saved(made),
    }
    write_bundle(
        options.out,
        model,
        {**graphs, **tables},
        synthetic.images,
        options.seed,
        plain_options(options),
        metrics,
        options.force,
    )
    keeper.remove()
    return _result(chosen, model, checked, choice, clock, made)


def _made(
    teacher: Teacher,
    options: QuantizeOptions,
    settings: RecipeSettings,
    control: RunControl,
    keeper: RunFolder,
    device: torch.device,
    progress: ProgressCallback,
) -> MadeSet:
    count = settings.pool_images + settings.held_out_images
    return synthesize_once(
        StageStore(control.cache or keeper.folder),
        teacher,
        settings,
        options.method,
        options.seed,
        device,
        progress,
        keeper,
        keeper.pool_file(pool_bytes(count, teacher.input_shape)),
    )


def _checked_metrics(checked: Checked, choice: TargetChoice) -> dict[str, Any]:
    """What was measured of the finished graphs, for the manifest."""
    return {
        "fidelity": checked.fidelity.to_json(),
        "parity": checked.parity.to_json(),
        "coverage": checked.coverage.to_json(),
        "ladder": [rung.to_json() for rung in checked.ladder.rungs],
        "bench": None if checked.benchmark is None else checked.benchmark.to_json(),
        "images_source": checked.source,
        "images_remarks": list(checked.remarks),
        "targets": {
            "written": [target.name for target in choice.targets],
            "refused": dict(choice.refused),
        },
    }


class _Clock:
    """Wall time per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)

    def total(self) -> float:
        return time.perf_counter() - self._start


def _read_images(folder: Path, teacher: Teacher) -> ImageSet:
    classes = teacher.num_classes if teacher.task == "multiclass" else None
    return read_image_folder(folder, teacher.input_shape, teacher.preprocessing, classes)


def _with_widths(
    options: QuantizeOptions,
    sizes: FileSizes | None,
    teacher: Teacher,
    synthetic: SyntheticSet,
    clock: _Clock,
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
    keeper: RunFolder,
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
    )
    return frozen_model(student, options.scheme, teacher), metrics


@contextmanager
def _last_good_kept(out: Path, keeper: RunFolder) -> Iterator[None]:
    """On divergence, write the state that the error carries beside the bundle that failed.

    What was kept of the run goes: it leads to the same end.
    """
    try:
        yield
    except DivergenceError as error:
        path = out.with_name(f"{out.name}.last-good.safetensors")
        path.parent.mkdir(parents=True, exist_ok=True)
        keeper.remove()
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


def _graphs(
    model: QuantizedModel, neutral: ir.Model, choice: TargetChoice, progress: ProgressCallback
) -> dict[str, bytes]:
    """The student by file name, in the dialect of every chosen target."""
    report = StageProgress(progress, "export", len(choice.targets))
    graphs: dict[str, bytes] = {}
    for target in choice.targets:
        graphs[target.file_name] = _serialised(to_onnx(model, target, neutral))
        report.advance(message=target.file_name)
    return graphs


def _serialised(proto: onnx.ModelProto) -> bytes:
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def _result(
    options: QuantizeOptions,
    model: QuantizedModel,
    checked: Checked,
    choice: TargetChoice,
    clock: _Clock,
    made: MadeSet,
) -> QuantizeResult:
    model_file = options.out / targets().get(REFERENCE).file_name
    fidelity, parity = checked.fidelity, checked.parity
    stored = [t for x in model.weighted_layers().values() for t in (x.stored_weight, x.bias)]
    float_bytes = 4 * sum(tensor.numel() for tensor in stored if tensor is not None)
    student_bytes = model_file.stat().st_size
    verdict = judge(checked, float_bytes, student_bytes, choice.describe_refused())
    times = None if checked.benchmark is None else checked.benchmark.batches[0]
    return QuantizeResult(
        bundle_path=options.out,
        name=model.name,
        scheme=options.scheme.describe(),
        seconds=clock.total(),
        stage_seconds=clock.seconds,
        seconds_saved=_saved(made),
        peak_memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        images_measured=fidelity.count,
        images_source=checked.source,
        images_remarks=checked.remarks,
        labelled=fidelity.teacher_accuracy is not None,
        teacher_accuracy=_percent(fidelity.teacher_accuracy),
        student_accuracy=_percent(fidelity.student_accuracy),
        agreement=100 * fidelity.agreement,
        label_f1=_percent(None if fidelity.labels is None else fidelity.labels.f1),
        labels_exact=_percent(None if fidelity.labels is None else fidelity.labels.exact),
        parity_top1=100 * parity.same_top1,
        parity_max_diff=parity.max_diff,
        parity_mean_diff=parity.mean_diff,
        integer_share=100 * checked.coverage.share,
        float_bytes=float_bytes,
        student_bytes=student_bytes,
        model_file=model_file,
        float_latency_ms=None if times is None else times.float_graph.p50_ms,
        student_latency_ms=None if times is None else times.quantized.p50_ms,
        improvements=improvements(options, model, checked, student_bytes),
        refused_targets=dict(choice.refused),
        ship=verdict.ship,
        verdict=verdict.sentence,
        next_commands=next_commands(options, verdict.ship),
    )


def _saved(made: MadeSet) -> dict[str, float]:
    """Seconds that the reused stages took when they were made."""
    return {"synthesize": round(made.seconds, 3)} if made.reused else {}


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
