"""Whether mean and deviation of the pixels are those that a network was trained with.

Without data nobody sees a wrong ``--mean``: the student repeats a teacher that is fed wrongly. The
first BatchNorm remembers how large its inputs were, though, and painted images have the
contrasts of photos (docs/method.md), so that a usual normalisation can be told from another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from lrq_deploy.graph.attributes import tensor_of
from lrq_deploy.graph.operators import MOVEMENTS, SUMS, WEIGHTED, is_call
from lrq_deploy.graph.statistics import batch_norms
from lrq_deploy.method.images.dead_leaves import DeadLeaves
from lrq_deploy.student.segments import Segment, segment_graph
from lrq_deploy.teacher import Preprocessing, Teacher

__all__ = [
    "NormalisationFit",
    "PixelCheck",
    "check_pixels",
    "fit_normalisation",
    "normalisation_flags",
]

aten = torch.ops.aten

_BEFORE = WEIGHTED | MOVEMENTS | SUMS | {aten.div.Tensor}
"""What may lie before the first BatchNorm: behind a curve photos and paintings differ more."""

_IMAGENET = (0.485, 0.456, 0.406)
_GREY = ((0.0, 1.0), (0.5, 0.5), (0.0, 1 / 255))
_COLOUR = ((_IMAGENET, (0.229, 0.224, 0.225)), (_IMAGENET, (1 / 255,) * 3))
_DIGITS = (((0.1307,), (0.3081,)),)

_FAR = 1.0
"""Distance from which a stated normalisation is doubted (docs/decisions.md)."""
_NEAR = 0.6
"""Distance up to which a usual one is named."""
_TIMES_NEARER = 2.0
"""How much nearer another must be."""

_PIXELS = 2**18
_IMAGES = (16, 64)
_DEAD = 1e-4
"""Share of the largest variance below which a channel says nothing."""


@dataclass(frozen=True)
class NormalisationFit:
    """How far normalised pixels are from what the first BatchNorm remembers.

    A distance is our own measure: the root of the mean over the BatchNorm's channels ``c`` of
    ``ln(s_c / S_c)^2 + ((m_c - M_c) / S_c)^2``, with mean ``m`` and deviation ``s`` of the painted
    images, ``M`` and ``S`` as stored, each ``[C]``. 0 is alike, 1 a deviation wrong by e.

    Attributes:
        distance: of the teacher's preprocessing.
        usual: mean and deviation per channel, in units of the 0..1 pixel range: of those that
            training scripts have, the nearest.
        usual_distance: of that.
    """

    distance: float
    usual: Preprocessing
    usual_distance: float


@dataclass(frozen=True)
class PixelCheck:
    """What the first BatchNorm has against how pixels are read.

    Attributes:
        remark: what the user should know of it, or empty.
        fitting: the usual normalisation to state instead; None where none fits, or none is needed.
        stated: whether the user, or the name of the network, says how pixels are read.
        contradicted: whether that is far from what the BatchNorm remembers, and ``fitting`` near.
    """

    remark: str = ""
    fitting: Preprocessing | None = None
    stated: bool = True
    contradicted: bool = False


def fit_normalisation(teacher: Teacher) -> NormalisationFit | None:
    """The fit on painted images; None without BatchNorm that was trained, or behind a curve."""
    norms = batch_norms(teacher.graph)
    if not norms or not _plain(norms[0].all_input_nodes[0]):
        return None
    first = norms[0]
    graph = segment_graph(teacher.graph, Segment(None, first.all_input_nodes[0].name))
    mean, var = (tensor_of(teacher.graph, first.args[place]) for place in (3, 4))
    as_made = not mean.any() and bool((var == 1).all())
    if as_made or not (var > 0).any():
        return None
    pixels = _painted(teacher)
    usual = _usual(teacher.input_shape[0])
    stated, *distances = (
        _distance(graph(_normalised(pixels, how)), mean, var)
        for how in (teacher.preprocessing, *usual)
    )
    nearest = min(range(len(usual)), key=distances.__getitem__)
    return NormalisationFit(stated, usual[nearest], distances[nearest])


def check_pixels(teacher: Teacher) -> PixelCheck:
    """Hold ``--mean`` and ``--std``, or their absence, against the first BatchNorm."""
    fit = fit_normalisation(teacher)
    stated = teacher.preprocessing.known
    far = fit is not None and fit.distance >= max(_FAR, _TIMES_NEARER * fit.usual_distance)
    usual = fit.usual if fit and fit.usual_distance <= _NEAR else None
    fitting = usual if far or not stated else None
    remark = _remark(teacher.preprocessing, fitting, far)
    return PixelCheck(remark, fitting, stated, far and usual is not None)


def normalisation_flags(how: Preprocessing) -> str:
    """``--mean`` and ``--std`` for people; rounded to four digits."""
    return " ".join(
        f"--{name}=" + ",".join(f"{value:.4g}" for value in values)
        for name, values in (("mean", how.mean), ("std", how.std))
    )


def _remark(read: Preprocessing, fitting: Preprocessing | None, far: bool) -> str:
    flags = "" if fitting is None else normalisation_flags(fitting)
    if not read.known:
        found = f"its first BatchNorm fits {flags}" if flags else "pass both"
        against = ", and the network seems trained otherwise" if flags and far else ""
        return f"without --mean and --std pixels are read as they are, in 0..1{against}: {found}"
    if not far:
        return ""
    stated = f"{normalisation_flags(read)} do not fit the first BatchNorm of the network"
    return f"{stated}, {flags} would" if flags else f"{stated}: check them"


def _plain(node: fx.Node) -> bool:
    """Whether nothing but ``_BEFORE`` lies between the image and ``node``."""
    pending, seen = [node], {node}
    while pending:
        node = pending.pop()
        if node.op == "call_function" and not is_call(node, _BEFORE):
            return False
        sources = [source for source in node.all_input_nodes if source not in seen]
        seen.update(sources)
        pending += sources
    return True


@torch.no_grad()
def _painted(teacher: Teacher) -> Tensor:
    """Pixels ``[N, C, H, W]``, 0..1; always the same."""
    channels, height, width = teacher.input_shape
    least, most = _IMAGES
    count = min(max(_PIXELS // (height * width), least), most)
    as_they_are = Preprocessing((0.0,) * channels, (1.0,) * channels)
    painter = DeadLeaves(teacher.input_shape, teacher.num_classes, as_they_are, teacher.task)
    random = torch.Generator().manual_seed(0)
    latent = torch.randn(count, *painter.latent_shape, generator=random)
    images: Tensor = painter(latent, latent)
    return images


def _normalised(pixels: Tensor, how: Preprocessing) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (how.mean, how.std))
    return (pixels - mean) / std


def _distance(seen: Tensor, mean: Tensor, var: Tensor) -> float:
    alive = var > _DEAD * var.max()
    seen_var, seen_mean = torch.var_mean(seen.transpose(0, 1).flatten(1), 1)
    wider = (seen_var / var)[alive].clamp_min(torch.finfo().tiny).log() / 2
    moved = ((seen_mean - mean) / var.sqrt())[alive]
    return float((wider.square() + moved.square()).mean().sqrt())


def _usual(channels: int) -> list[Preprocessing]:
    grey = [((mean,) * channels, (std,) * channels) for mean, std in _GREY]
    more: dict[int, Sequence[tuple[tuple[float, ...], tuple[float, ...]]]]
    more = {1: _DIGITS, 3: _COLOUR}
    return [Preprocessing(mean, std) for mean, std in (*more.get(channels, ()), *grey)]
