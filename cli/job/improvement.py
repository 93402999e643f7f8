"""What would improve each figure of a verdict, from what was measured on these runtimes."""

from functools import partial

from lrq_deploy.cli.job.checking import Checked
from lrq_deploy.cli.job.sizes import wider_in_same_room
from lrq_deploy.cli.job.verdict import MAX_DROP_POINTS, MIN_AGREEMENT, limit_in_doubt
from lrq_deploy.export.measures.accuracy import Fidelity
from lrq_deploy.export.measures.coverage import Coverage
from lrq_deploy.export.measures.intervals import (
    images_to_decide,
    paired_drop_interval,
    share_interval,
)
from lrq_deploy.export.measures.latency import Benchmark
from lrq_deploy.export.targets import REFERENCE, TargetChoice, targets
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.frozen import FrozenLayer, QuantizedModel
from lrq_deploy.student.weighted import weighted_layers
from lrq_deploy.wording import counted

__all__ = ["improvements"]

GOOD_RATIO = 0.75
"""Latency against float that needs no advice; resnet18 takes about half."""

_ALONE = f"--target {REFERENCE}"
_CARRIER_BITS = 8
_FEW_BITS = 4
_WORTH = 0.05
"""Share of the file that a narrower layer must save to be named."""


def improvements(
    options: QuantizeOptions,
    choice: TargetChoice,
    model: QuantizedModel,
    checked: Checked,
    student_bytes: int,
    default_method: str = "lrq",
    told: bool = True,
) -> dict[str, str]:
    """Advice by figure, where there is any.

    The figures are ``accuracy``, ``certainty``, ``integers``, ``latency`` and ``size``.

    Args:
        options: of the run.
        choice: what it was written for.
        model: the student.
        checked: what was measured.
        student_bytes: size of ``model.onnx``.
        default_method: what the network gets without ``--method``.
        told: whether what was measured tells what the student lost.
    """
    wide = options.scheme.act_bits == _CARRIER_BITS
    # ONNX Runtime alone is refused for --int4-linear.
    narrowed = wide and not options.scheme.int4_linear and _shares_a_narrow_table(choice)
    advice = {
        "accuracy": _accuracy(options, checked, narrowed, default_method) if told else "",
        "certainty": _certainty(checked),
        "integers": _integers(checked.coverage),
        "latency": _latency(checked.benchmark, checked.coverage, narrowed),
        "size": _size(options, model, student_bytes),
    }
    return {figure: text for figure, text in advice.items() if text}


def _shares_a_narrow_table(choice: TargetChoice) -> bool:
    """Whether a runtime beside ``REFERENCE`` holds fewer integers, and so decides for both."""
    return choice.limits.carrier_qmax < targets().get(REFERENCE).carrier_qmax


def _accuracy(
    options: QuantizeOptions, checked: Checked, narrowed: bool, default_method: str
) -> str:
    drop = checked.fidelity.drop_points
    lost = checked.fidelity.agreement < 1 if drop is None else drop > 0
    if not lost:
        return ""
    ways = []
    if options.method_name not in ("lrq", default_method):
        ways.append(f"without --method {options.method_name} the default takes its place")
    weight_bits = options.scheme.weight_bits
    chosen = options.target_size is not None  # --bits mixed, which refuses --weight-bits
    wider = wider_in_same_room(weight_bits)
    if wider is not None and not chosen:
        ways.append(f"--weight-bits {wider} takes the same room in the file")
    if options.scheme.act_bits < 8:
        ways.append("--act-bits 8 costs neither size nor speed in ONNX Runtime")
    ways += _narrowed_further(options.scheme)
    if narrowed:
        # Exact sums of such pairs leave the weights a bit less on CPUs without VNNI.
        price = ", weights -64..64" if weight_bits == _CARRIER_BITS else ""
        ways.append(f"{_ALONE} gives activations 0..255, not 0..127{price}, and one graph only")
    if wider is None and weight_bits < _CARRIER_BITS and not chosen:
        ways.append(f"--weight-bits {2 * weight_bits} makes the file larger")
    if options.recipe != "best":
        ways.append("--recipe best takes longer")
    return "; ".join(ways)


def _narrowed_further(scheme: Scheme) -> list[str]:
    """What was given widths below those that it has unless told."""
    residual = scheme.act_bits if scheme.residual_bits is None else scheme.residual_bits
    edge = scheme.weight_bits if scheme.edge_bits is None else scheme.edge_bits
    ways = []
    if residual < _CARRIER_BITS:
        ways.append("--residual-bits 8 takes a Clip per block in ONNX Runtime")
    if edge < _CARRIER_BITS:
        ways.append("--edge-bits 8 makes the first and the last layer larger")
    if any(own.weight_bits < _CARRIER_BITS for own in scheme.layer_bits):
        ways.append("a larger --target-size gives more layers 8 bits")
    return ways


def _certainty(checked: Checked) -> str:
    """Where the images are not the user's, or too few to tell on which side of its limit it is."""
    found = checked.fidelity
    if found.at_chance is not None:
        return "labels that the float network meets tell what the student lost"
    if checked.source != "folder":
        harder = "synthetic images are harder than data, --images measures on yours"
        return harder if found.agreement < 1 else ""
    if not limit_in_doubt(checked):
        return ""
    labelled = found.drop_points is not None
    count = found.labelled if labelled else found.count
    limit = MAX_DROP_POINTS / 100 if labelled else MIN_AGREEMENT
    interval = partial(_interval, found)
    needed = images_to_decide(interval, limit, count)
    enough = "more" if needed is None else f"about {needed:,}"
    return f"{counted(count, 'image')} cannot tell on which side of the limit it is, {enough} would"


def _interval(found: Fidelity, images: int) -> tuple[float, float]:
    """Of the lost share, or of the agreement without labels, had it been that of so many images."""
    if found.drop_points is None:
        return share_interval(found.agreement, images)
    times = images / found.labelled
    return paired_drop_interval(found.lost * times, found.gained * times, images)


def _integers(coverage: Coverage) -> str:
    named = [f"{layer.name}: {layer.reason}" for layer in coverage.fallbacks[:2]]
    rest = len(coverage.fallbacks) - len(named)
    return "; ".join([*named, *([f"{rest} more, see validate"] if rest else [])])


def _latency(benchmark: Benchmark | None, coverage: Coverage, narrowed: bool) -> str:
    if benchmark is None or benchmark.worst_ratio <= GOOD_RATIO:
        return ""
    if coverage.float_operators:
        rest = ", ".join(f"{count} {name}" for name, count in coverage.float_operators.items())
        return f"{rest} run on floats between the layers and are not fused with them"
    return f"{_ALONE} needs no clip behind activations, writes one graph only" if narrowed else ""


def _size(options: QuantizeOptions, model: QuantizedModel, student_bytes: int) -> str:
    """What 4 bits would save where weights have more of them, and take a byte each.

    Nothing where the user named the size, and the widths were chosen to fill it.
    """
    if options.target_size is not None:
        return ""
    layers = weighted_layers(model)
    wide = {
        name: layer.weight_q.numel()
        for name, layer in layers.items()
        if isinstance(layer, FrozenLayer) and layer.qparams.bits > _FEW_BITS
    }
    names = list(layers)
    edge = sum(count for name, count in wide.items() if name in (names[0], names[-1]))
    inner = sum(wide.values()) - edge
    found = []
    for flag, count in (("--weight-bits 4", inner), ("--edge-bits 4", edge)):
        if count / 2 > _WORTH * student_bytes:
            found.append(f"{flag} saves {100 * count / 2 / student_bytes:.0f} % of the file")
    return "; ".join(found)
