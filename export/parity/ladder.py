"""The parity ladder: every form of a bundle's student against the student with exact sums.

The exact student (integer sums, see ``simulation``) is the one thing that all rungs are held
against, so the order of a float32 sum is not mistaken for a fault; that it is right is what
the numpy reference shows.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrq_deploy.errors import ImageError, ParityError
from lrq_deploy.export.engine.run import EngineSession, EngineUnavailableError
from lrq_deploy.export.parity.bounds import (
    FLOAT_GRAPH,
    FLOAT_SUMS,
    Bound,
    as_close_as,
    integer_bound,
    with_ties_of,
)
from lrq_deploy.export.parity.compare import Parity, compare
from lrq_deploy.export.parity.exposure import (
    Divergence,
    Trace,
    exact_trace,
    first_divergence,
    onnx_trace,
    reference_trace,
    torch_trace,
)
from lrq_deploy.export.parity.reference import (
    UnknownOperatorError,
    float_operator,
    reference_logits,
)
from lrq_deploy.export.parity.simulation import exact_logits
from lrq_deploy.export.runtime.session import OptimizationLevel, open_session
from lrq_deploy.export.targets import targets
from lrq_deploy.progress import ProgressCallback, StageProgress, silent
from lrq_deploy.student.frozen import QuantizedModel

__all__ = ["Ladder", "Rung", "climb", "reachable_bound"]

TRACED_IMAGES = 2


@dataclass(frozen=True)
class Rung:
    """One form of the student, compared.

    Attributes:
        name: short, stable name for scripts.
        title: what it is.
        bound: what it must reach.
        parity: against the exact student; None where the rung could not be run.
        skipped: why it could not be run, or empty.
        divergence: first differing tensor on up to ``TRACED_IMAGES`` differing images; None
            where no row differs, or no tensor but the logits does.
        repeats: whether those images differ again when they run alone; float32 sums may
            depend on the batch.
        remark: what is to be known of the form that ran, or empty.
    """

    name: str
    title: str
    bound: Bound
    parity: Parity | None = None
    skipped: str = ""
    divergence: Divergence | None = None
    repeats: bool = False
    remark: str = ""

    @property
    def passes(self) -> bool:
        """Whether the rung is within its bound; one that could not be run has none."""
        return self.parity is None or self.bound.holds(self.parity)

    @property
    def where(self) -> str:
        """Where it parts from the exact student, or empty."""
        if self.divergence is not None:
            return self.divergence.describe()
        differs = self.parity is not None and self.parity.same_rows < 1
        if not differs:
            return ""
        return "the logits" if self.repeats else "no tensor when the images run alone"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "title": self.title,
            "bound": asdict(self.bound),
            "parity": None if self.parity is None else self.parity.to_json(),
            "skipped": self.skipped,
            "divergence": None if self.divergence is None else asdict(self.divergence),
            "repeats": self.repeats,
            "remark": self.remark,
            "passes": self.passes,
        }


@dataclass(frozen=True)
class Ladder:
    """All rungs, in order."""

    rungs: tuple[Rung, ...]

    def rung(self, name: str) -> Rung | None:
        """The rung of that name; None where it was left out."""
        return next((rung for rung in self.rungs if rung.name == name), None)

    @property
    def failures(self) -> tuple[Rung, ...]:
        """The rungs below their bound."""
        return tuple(rung for rung in self.rungs if not rung.passes)

    def require(self) -> None:
        """Check every rung.

        Raises:
            ParityError: a rung is below its bound.
        """
        if not self.failures:
            return
        found = [
            f"{rung.name}: top-1 {100 * rung.parity.same_top1:.2f} %, rows "
            f"{100 * rung.parity.same_rows:.2f} % of {rung.parity.count}"
            + (f", first at {rung.where}" if rung.where else "")
            for rung in self.failures
            if rung.parity is not None
        ]
        bounds = "; ".join(f"{rung.name}: {rung.bound.describe()}" for rung in self.failures)
        raise ParityError(
            f"every form of the student must be within its bound ({bounds})",
            "; ".join(found),
            "do not ship this bundle; report it with the CPU type and the network's name",
        )


@dataclass
class _Climb:
    """One rung while images pass by."""

    name: str
    title: str
    bound: Bound
    logits: Callable[[Tensor], Tensor]
    trace: Callable[[Tensor], Trace]
    limit: int | None = None
    remark: Callable[[], str] = str
    pairs: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    differing: list[Tensor] = field(default_factory=list)
    skipped: str = ""

    def take(self, images: Tensor, exact: Tensor) -> None:
        """Compare one batch, up to the limit of the rung."""
        seen = sum(len(pair[0]) for pair in self.pairs)
        room = len(images) if self.limit is None else min(self.limit - seen, len(images))
        if room <= 0 or self.skipped:
            return
        images, exact = images[:room], exact[:room]
        try:
            ours = self.logits(images)
        except (UnknownOperatorError, EngineUnavailableError) as error:
            self.skipped = str(error)
            return
        self.pairs.append((exact, ours))
        for row in range(room):
            if len(self.differing) < TRACED_IMAGES:
                one = slice(row, row + 1)
                if compare(exact[one], ours[one]).same_rows < 1:
                    self.differing.append(images[one])

    def finish(self, model: QuantizedModel) -> Rung:
        """The comparison over all batches."""
        if self.skipped or not self.pairs:
            return Rung(self.name, self.title, self.bound, skipped=self.skipped or "no images")
        exact, ours = (torch.cat(side) for side in zip(*self.pairs, strict=True))
        divergence, repeats = None, False
        if self.differing:
            images = torch.cat(self.differing)
            divergence = first_divergence(model, exact_trace(model, images), self.trace(images))
            again = compare(exact_logits(model, images), self.logits(images))
            repeats = again.same_rows < 1
        parity = compare(exact, ours, model.task)
        about = (self.name, self.title, self.bound)
        return Rung(*about, parity, "", divergence, repeats, self.remark())


def climb(
    model: QuantizedModel,
    graph: Path,
    images: Iterable[Tensor],
    dialects: Mapping[str, Path] | None = None,
    reference_count: int = 16,
    threads: int = 1,
    total: int = 1,
    progress: ProgressCallback = silent,
    engine: Callable[[], EngineSession] | None = None,
) -> Ladder:
    """Run every form of the student on the same images.

    Args:
        model: the student.
        graph: its ``model.onnx``.
        images: batches ``[n, C, H, W]`` of normalised images, at least one image.
        dialects: its graphs for other runtimes, by the name of the target.
        reference_count: images for the slow numpy reference.
        threads: of ONNX Runtime.
        total: number of batches, for the progress.
        progress: receives one event per batch.
        engine: loads the engine of the bundle, or says why it cannot run; None leaves it out.

    Raises:
        ExportError: ONNX Runtime does not accept a graph, or the engine fails.
        ImageError: images of another shape, or none.
        ParityError: a form gives logits that are not finite.
    """
    rungs = list(_rungs(model, graph, dialects or {}, reference_count, threads))
    if engine is not None:
        rungs.append(_engine(engine))
    report = StageProgress(progress, "parity ladder", total)
    count = 0
    for batch in images:
        _check_shape(batch, model)
        exact = exact_logits(model, batch)
        for rung in rungs:
            rung.take(batch, exact)
        count += len(batch)
        report.advance()
    if count == 0:
        raise ImageError("validation needs images", "none", "pass a folder with images")
    return Ladder(_bounded([rung.finish(model) for rung in rungs], model))


def _bounded(rungs: Sequence[Rung], model: QuantizedModel) -> tuple[Rung, ...]:
    """Held to what the simulation, which comes first, shows.

    The reference has no floats to add: it is as exact as what it is held against.
    """
    shown = rungs[0].parity
    if shown is None:
        return tuple(rungs)
    return tuple(
        r if r.name == "reference" else replace(r, bound=reachable_bound(model, shown, r.bound))
        for r in rungs
    )


def reachable_bound(model: QuantizedModel, simulation: Parity, bound: Bound) -> Bound:
    """What a form must reach, given what ties and sums of floats do to torch's own float32.

    Args:
        model: the student.
        simulation: of it, on the same images.
        bound: of the form, where the student adds no floats.
    """
    if float_operator(model) is None:
        return with_ties_of(simulation, bound)
    return as_close_as(simulation)


def _rungs(
    model: QuantizedModel,
    graph: Path,
    dialects: Mapping[str, Path],
    reference_count: int,
    threads: int,
) -> Iterator[_Climb]:
    yield _Climb(
        "simulation",
        "torch, as trained",
        FLOAT_SUMS,
        model.logits,
        lambda x: torch_trace(model, x),
    )
    yield _Climb(
        "reference",
        "numpy integers",
        Bound(same_top1=1.0, same_rows=1.0),
        lambda x: torch.from_numpy(reference_logits(model, x)),
        lambda x: reference_trace(model, x),
        reference_count,
    )
    fused = integer_bound(model)
    title = "ONNX Runtime plain"
    yield _runtime("onnxruntime-off", title, model, graph, "off", threads, FLOAT_GRAPH)
    yield _runtime("onnxruntime-all", "ONNX Runtime fused", model, graph, "all", threads, fused)
    for name, path in dialects.items():
        title = f"{targets().get(name).title} dialect"
        yield _runtime(f"{name}-dialect", title, model, path, "off", threads, FLOAT_GRAPH)


def _runtime(
    name: str,
    title: str,
    model: QuantizedModel,
    graph: Path,
    level: OptimizationLevel,
    threads: int,
    bound: Bound,
) -> _Climb:
    session = open_session(graph, threads, level)

    def trace(images: Tensor) -> Trace:
        return onnx_trace(model, graph, images, level, threads)

    return _Climb(name, title, bound, session.logits, trace)


def _engine(load: Callable[[], EngineSession]) -> _Climb:
    # An engine adds floats where the dialect does, and may add them in another order.
    session = cache(load)
    return _Climb(
        "engine",
        "TensorRT engine",
        FLOAT_SUMS,
        lambda x: session().logits(x),
        _untraced,
        remark=lambda: session().remark,
    )


def _untraced(images: Tensor) -> Trace:
    """An engine shows nothing of what flows inside."""
    return {}


def _check_shape(batch: Tensor, model: QuantizedModel) -> None:
    if tuple(batch.shape[1:]) != model.input_shape:
        raise ImageError(
            f"images must have the shape {','.join(map(str, model.input_shape))} of the network",
            ",".join(map(str, batch.shape[1:])),
            "resize them first",
        )
