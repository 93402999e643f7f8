"""Measure what each tensor of a student loses at each width: one at a time, all else float.

Forward passes only. The float values of every node are computed once per batch; a trial then
reruns only the nodes behind the tensor that it quantizes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from lrq_deploy.calibration.act_range import fit_act_range
from lrq_deploy.calibration.observe import sample_activations
from lrq_deploy.calibration.ranges import search_weight_scale
from lrq_deploy.graph.called_modules import called_modules
from lrq_deploy.method.recipe import RecipeSettings, recipe_settings
from lrq_deploy.progress import ProgressCallback, StageProgress
from lrq_deploy.scheme import IntegerRange
from lrq_deploy.sensitivity import PROBED_WIDTHS, Damage, Sensitivity, SensitivityTable
from lrq_deploy.student.fake_quant import fake_quantize_per_channel, fake_quantize_per_tensor
from lrq_deploy.student.layers import ActQuantizer, QuantizedLayer, set_enabled
from lrq_deploy.target import TargetDescription
from lrq_deploy.task import Task

__all__ = ["PROBE_IMAGES", "Losses", "measure_sensitivity", "probe_settings"]

PROBE_IMAGES = 256
"""Enough to order layers."""
SAMPLE_SIZE = 16_384
"""Values per activation for the range search; an eighth of what a student's ranges take."""
BATCH_PIXELS = 64 * 32 * 32
"""Pixels per batch: the values of every node of one batch are held at a time."""


def probe_settings(input_shape: tuple[int, int, int]) -> RecipeSettings:
    """A short run of the generator: images to compare layers on, not to train on."""
    settings = recipe_settings("fast", input_shape)
    return replace(
        settings,
        generator_steps=80,
        # With the usual weight the teacher is sure of every image, and narrow widths seem free.
        class_weight=0.005,
        batch_size=min(settings.batch_size, 64),
        refinement_steps=20,
        pool_images=PROBE_IMAGES,
        overlay_images=0,
        held_out_images=0,
    )


@dataclass
class Losses:
    """Sums over images, or over all labels of all images, of how logits differ.

    See ``Damage``. A label that is there or not is a choice between two classes.
    """

    task: Task = "multiclass"
    images: int = 0
    kl: float = 0.0
    same: float = 0.0
    drop: float = 0.0

    def add(self, teacher: Tensor, student: Tensor) -> None:
        """Take in logits ``[N, classes]`` of the same images."""
        if self.task == "multilabel":
            teacher, student = (
                torch.stack([x, -x], -1).flatten(0, 1) / 2 for x in (teacher, student)
            )
        teacher_log, student_log = F.log_softmax(teacher, 1), F.log_softmax(student, 1)
        divergence = F.kl_div(student_log, teacher_log, reduction="sum", log_target=True)
        best, answer = teacher.argmax(1), student.argmax(1)
        p = teacher_log.exp()
        lost = p.gather(1, best[:, None]) - p.gather(1, answer[:, None])
        self.images += len(teacher)
        # Rounding may leave a tiny negative divergence.
        self.kl += max(float(divergence), 0.0)
        self.same += int((best == answer).sum())
        self.drop += float(lost.sum())

    def damage(self, bits: int) -> Damage:
        """The means."""
        count = max(self.images, 1)
        return Damage(bits, self.kl / count, self.same / count, 100 * self.drop / count)


def measure_sensitivity(
    student: fx.GraphModule,
    images: Tensor,
    target: TargetDescription,
    symmetric: bool,
    seed: int,
    name: str,
    progress: ProgressCallback,
    task: Task = "multiclass",
) -> SensitivityTable:
    """Damage of every weight and activation of ``student`` at every probed width.

    Args:
        student: placed at 8 bits; its quantizers are off afterwards.
        images: normalised ``[N, C, H, W]``, on the student's device.
        target: integer ranges of a width.
        symmetric: zero points of activations all 0.
        seed: of the sample that ranges are searched on.
        name: of the network.
        progress: receives one event per batch.
        task: what the logits mean.
    """
    set_enabled(student, False)
    samples = sample_activations(student, images, seed, SAMPLE_SIZE)
    probes = [*_weight_probes(student, target), *_act_probes(student, samples, target, symmetric)]
    trials = [[Losses(task) for _ in probe.changes] for probe in probes]
    runner = _Rerun(student)
    size = max(BATCH_PIXELS // (images.shape[2] * images.shape[3]), 4)
    report = StageProgress(progress, "sensitivity", -(-len(images) // size), size)
    for batch in images.split(size):
        runner.observe(batch)
        for probe, losses in zip(probes, trials, strict=True):
            for change, sums in zip(probe.changes, losses, strict=True):
                sums.add(runner.logits, runner.changed(probe.name, change))
        report.advance()
    entries = [probe.entry(runner.elements, x) for probe, x in zip(probes, trials, strict=True)]
    return SensitivityTable(name, len(images), tuple(entries))


_Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Probe:
    """One tensor, and what stands in for its module's ``forward`` at each of ``PROBED_WIDTHS``."""

    name: str
    layers: tuple[str, ...]
    weights: int
    changes: list[_Change]

    def entry(self, elements: Mapping[str, int], losses: list[Losses]) -> Sensitivity:
        widths = zip(losses, PROBED_WIDTHS, strict=True)
        damages = tuple(sums.damage(bits) for sums, bits in widths)
        if self.weights:
            return Sensitivity(self.name, "weight", self.weights, self.layers, damages)
        return Sensitivity(self.name, "activation", elements[self.name], self.layers, damages)


def _weight_probes(student: fx.GraphModule, target: TargetDescription) -> list[_Probe]:
    quantizers = called_modules(student, ActQuantizer)
    probes = []
    for path, layer in called_modules(student, QuantizedLayer).items():
        read = quantizers[layer.input_quantizer].bounds
        changes = [_with_weights(layer, target.weight_range(b, read)) for b in PROBED_WIDTHS]
        probes.append(_Probe(path, (path,), layer.weight.numel(), changes))
    return probes


def _with_weights(layer: QuantizedLayer, bounds: IntegerRange) -> _Change:
    axis = layer.spec.channel_axis
    scale = search_weight_scale(layer.weight, axis, bounds)

    def apply(x: Tensor) -> Tensor:
        weight = fake_quantize_per_channel(layer.weight, scale, axis, bounds.qmin, bounds.qmax)
        return layer.spec.apply(x, weight, layer.bias)

    return apply


def _act_probes(
    student: fx.GraphModule,
    samples: Mapping[str, Tensor],
    target: TargetDescription,
    symmetric: bool,
) -> list[_Probe]:
    readers: dict[str, list[str]] = {}
    for path, layer in called_modules(student, QuantizedLayer).items():
        readers.setdefault(layer.input_quantizer, []).append(path)
    return [
        _Probe(
            path,
            tuple(readers.get(path, ())),
            0,
            [_with_steps(quantizer, samples[path], target, b, symmetric) for b in PROBED_WIDTHS],
        )
        for path, quantizer in called_modules(student, ActQuantizer).items()
    ]


def _with_steps(
    quantizer: ActQuantizer,
    values: Tensor,
    target: TargetDescription,
    bits: int,
    symmetric: bool,
) -> _Change:
    bounds = target.act_range(bits, quantizer.signed, symmetric)
    fitted = fit_act_range(quantizer, values, bounds, symmetric)
    step, bounds = values.new_tensor(fitted.scale), fitted.bounds

    def apply(x: Tensor) -> Tensor:
        return fake_quantize_per_tensor(x, step, fitted.zero_point, bounds.qmin, bounds.qmax)

    return apply


class _Rerun(fx.Interpreter):
    """Keeps the float value of every node, and reruns what stands behind a changed module."""

    logits: Tensor

    def __init__(self, student: fx.GraphModule) -> None:
        super().__init__(student, garbage_collect_values=False)
        self.elements: dict[str, int] = {}
        self._floats: dict[fx.Node, Any] = {}
        self._replaced: tuple[str, _Change] | None = None
        self._behind = {
            path: _nodes_behind(student.graph, path)
            for path in [
                *called_modules(student, QuantizedLayer),
                *called_modules(student, ActQuantizer),
            ]
        }

    def observe(self, images: Tensor) -> None:
        """Run in float on one batch ``[N, C, H, W]``."""
        with torch.no_grad():
            self.logits = self.run(images)
        self._floats = dict(self.env)
        for node, value in self._floats.items():
            if node.op == "call_module":
                self.elements[str(node.target)] = value.numel() // len(images)

    def changed(self, path: str, change: _Change) -> Tensor:
        """Logits of the batch with ``change`` in place of the module ``path``."""
        behind = self._behind[path]
        start = {node: value for node, value in self._floats.items() if node not in behind}
        self._replaced = (path, change)
        with torch.no_grad():
            result: Tensor = self.run(initial_env=start)
        self._replaced = None
        return result

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The module, or what stands in for it."""
        if self._replaced is not None and self._replaced[0] == target:
            return self._replaced[1](args[0])
        return super().call_module(target, args, kwargs)


def _nodes_behind(graph: fx.Graph, path: str) -> set[fx.Node]:
    """Calls of a module, and every node whose value depends on one."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        called = node.op == "call_module" and node.target == path
        if called or any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found
