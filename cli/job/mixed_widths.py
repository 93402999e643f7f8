"""``--bits mixed``: what files of given widths weigh, and the widths that fit a target."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor, fx

from lrq_deploy.calibration.allocation import Offer, allocate
from lrq_deploy.calibration.sensitivity import PROBE_IMAGES, measure_sensitivity
from lrq_deploy.calibration.stand_in import stand_in_model
from lrq_deploy.errors import OptionError
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.graph.called_modules import called_modules
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.progress import ProgressCallback
from lrq_deploy.scheme import LayerBits, Scheme
from lrq_deploy.sensitivity import SensitivityTable
from lrq_deploy.student.layers import QuantizedLayer
from lrq_deploy.student.placement import new_student
from lrq_deploy.target import TargetDescription
from lrq_deploy.teacher import Teacher

__all__ = ["FileSizes", "choose_widths", "file_sizes", "size_remark"]

NARROW, WIDE = 4, 8
"""Three bits take the room of four on the disk, five to seven that of eight. Two would need blocks
fitted first, which is settled before the widths are."""

MEGABYTE = 1_000_000
_SLACK_BYTES = 512
"""Names in the file differ in length; the target is kept with this much to spare."""


@dataclass(frozen=True)
class FileSizes:
    """What ``model.onnx`` weighs as a function of the widths.

    Attributes:
        fixed_bytes: of everything but the weights of the layers below.
        narrow_bytes, wide_bytes: of the weights of each layer that may take either width, by
            path, with what packing them adds.
    """

    fixed_bytes: int
    narrow_bytes: Mapping[str, int]
    wide_bytes: Mapping[str, int]

    @property
    def smallest(self) -> int:
        """Size of the file with narrow weights everywhere."""
        return self.fixed_bytes + sum(self.narrow_bytes.values())

    @property
    def largest(self) -> int:
        """Size of the file with wide weights everywhere."""
        return self.fixed_bytes + sum(self.wide_bytes.values())


def file_sizes(teacher: Teacher, options: QuantizeOptions, limits: TargetDescription) -> FileSizes:
    """Measure the files of the two uniform students, with scales that stand for real ones.

    Args:
        teacher: captured.
        options: of the run.
        limits: of the runtimes that the run is for.

    Raises:
        OptionError: ``options.target_size`` lies below the smaller one.
    """
    students = {
        bits: new_student(teacher, replace(options.scheme, weight_bits=bits), limits)
        for bits in _BOTH
    }
    layers = {bits: called_modules(student, QuantizedLayer) for bits, student in students.items()}
    free = [name for name, layer in layers[NARROW].items() if layer.bits != layers[WIDE][name].bits]
    weights = {name: layers[WIDE][name].weight.numel() for name in free}
    small, large = (_file_bytes(students[bits], teacher, options.scheme) for bits in _BOTH)
    fixed = large - sum(weights.values()) + _SLACK_BYTES
    packed = sum(-(-count // 2) for count in weights.values())
    extra = -(-max(small + _SLACK_BYTES - fixed - packed, 0) // max(len(free), 1))
    sizes = FileSizes(
        fixed, {name: -(-count // 2) + extra for name, count in weights.items()}, weights
    )
    if _target_bytes(options) < sizes.smallest:
        raise OptionError(
            f"--target-size must be at least {_rounded_up(sizes.smallest)} MB, the size of "
            f"model.onnx with {NARROW}-bit weights",
            f"{options.target_size}",
            "pass a larger target"
            + ("" if options.scheme.edge_bits is None else ", or --edge-bits same"),
        )
    return sizes


def choose_widths(
    teacher: Teacher,
    sizes: FileSizes,
    images: Tensor,
    options: QuantizeOptions,
    limits: TargetDescription,
    progress: ProgressCallback,
) -> tuple[Scheme, SensitivityTable]:
    """The scheme that loses least within ``options.target_size``, and the table behind it.

    Args:
        teacher: captured.
        sizes: of ``file_sizes``.
        images: synthetic, normalised ``[N, C, H, W]``, on the CPU.
        options: of the run.
        limits: of the runtimes that the run is for.
        progress: receives an event per batch.
    """
    scheme = options.scheme
    table = measure_sensitivity(
        new_student(teacher, replace(scheme, act_bits=WIDE, residual_bits=WIDE), limits),
        images[:PROBE_IMAGES],
        limits,
        scheme.act_symmetry == "symmetric",
        options.seed,
        teacher.name,
        progress,
        teacher.task,
    )
    measured = {entry.name: entry for entry in table.of("weight")}
    offers = [
        (
            Offer(NARROW, sizes.narrow_bytes[name], measured[name].at(NARROW).kl),
            Offer(WIDE, sizes.wide_bytes[name], measured[name].at(WIDE).kl),
        )
        for name in sizes.wide_bytes
    ]
    room = _target_bytes(options) - sizes.fixed_bytes
    bits = allocate(offers, room) or (NARROW,) * len(offers)
    chosen = tuple(LayerBits(name, b) for name, b in zip(sizes.wide_bytes, bits, strict=True))
    return replace(scheme, layer_bits=chosen), table


def size_remark(options: QuantizeOptions, written_bytes: int) -> tuple[str, ...]:
    """What the user should know of ``model.onnx`` where ``options.target_size`` was not kept.

    ``file_sizes`` measures files of students that nobody has fitted; no fit is known to need more.
    """
    over = written_bytes - _target_bytes(options)
    if options.target_size is None or over <= 0:
        return ()
    return (f"model.onnx takes {over} bytes more than --target-size {options.target_size:g}",)


_BOTH = (NARROW, WIDE)


def _target_bytes(options: QuantizeOptions) -> int:
    # Rounded first: 1.001 times a million is a little less than 1,001,000.
    return int(round((options.target_size or 0.0) * MEGABYTE, 3))


def _rounded_up(size: int) -> str:
    """In MB with three decimals, as a size that is then accepted."""
    return f"{-(-size // 1000) / 1000:.3f}"


def _file_bytes(student: fx.GraphModule, teacher: Teacher, scheme: Scheme) -> int:
    """Size of ``model.onnx``; the weights fill their range, so that they pack as real ones do."""
    return int(to_onnx(stand_in_model(student, scheme, teacher)).ByteSize())
