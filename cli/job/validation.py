"""All forms of a bundle's network compared on the same images, with the audit and the gates."""

from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrq_deploy.cli.flags.accuracy_gates import AccuracyGates, Measured
from lrq_deploy.cli.flags.engine_parameters import check_engine_file, no_engine
from lrq_deploy.errors import BoundError, OptionError
from lrq_deploy.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from lrq_deploy.export.bundle.folder import Bundle
    from lrq_deploy.export.measures.coverage import Coverage
    from lrq_deploy.export.parity.ladder import Ladder
    from lrq_deploy.student.frozen import QuantizedModel

__all__ = ["VALIDATION_SCHEMA", "ValidateOptions", "Validation", "validate_bundle"]

VALIDATION_SCHEMA = 1
_BATCH = 32


@dataclass(frozen=True)
class ValidateOptions:
    """What to validate and how.

    Attributes:
        bundle: directory.
        images: folder of images; None makes them.
        count: images at most, 1 or more.
        reference_count: images for the numpy reference, 1 or more.
        threads: of ONNX Runtime, 1 or more.
        min_integer_coverage: share of the multiply-adds, 0..1; None only reports.
        engine: engine file; None takes those beside the bundle.
        require_engine: whether an engine that does not run here fails the command.
        device_outputs: what came back from a device, see ``export.device.outputs``; None: nothing.
        accuracy: what the accuracy that ``quantize`` measured must keep.
    """

    bundle: Path
    images: Path | None = None
    count: int = 1000
    reference_count: int = 16
    threads: int = 1
    min_integer_coverage: float | None = None
    engine: Path | None = None
    require_engine: bool = False
    device_outputs: Path | None = None
    accuracy: AccuracyGates = field(default_factory=AccuracyGates)

    def __post_init__(self) -> None:
        for name in ("count", "reference_count", "threads"):
            value = getattr(self, name)
            if value < 1:
                flag = name.replace("_", "-")
                raise OptionError(f"--{flag} must be 1 or more", str(value), f"pass --{flag} 1")
        share = self.min_integer_coverage
        if share is not None and not 0 <= share <= 1:
            raise OptionError(
                "--min-integer-coverage must be in 0..1", f"{share:g}", "pass for instance 0.95"
            )


@dataclass(frozen=True)
class Validation:
    """What was found.

    Attributes:
        bundle: directory.
        name: of the network.
        scheme: bit widths in words.
        images: number of images compared.
        images_source: ``folder`` or ``synthetic``.
        ladder: parity.
        coverage: integer audit of ``model.onnx``.
        min_integer_coverage: what the user asked for.
        remarks: on the user's images, such as files that were skipped.
        require_engine: whether an engine must have run.
        measured: what ``quantize`` wrote of its accuracy.
        accuracy: what that must keep.
    """

    bundle: Path
    name: str
    scheme: str
    images: int
    images_source: str
    ladder: "Ladder"
    coverage: "Coverage"
    min_integer_coverage: float | None
    remarks: tuple[str, ...] = ()
    require_engine: bool = False
    measured: Measured = field(default_factory=Measured)
    accuracy: AccuracyGates = field(default_factory=AccuracyGates)

    @property
    def missing_engine(self) -> str:
        """Why a required engine did not run, with the remedy; empty if it ran or need not."""
        rung = self.ladder.rung("engine")
        return rung.skipped if self.require_engine and rung is not None else ""

    @property
    def passes(self) -> bool:
        """Whether every gate holds."""
        kept = not self.ladder.failures and self.enough_integers and not self.missing_engine
        return kept and self.missed_accuracy is None

    @property
    def missed_accuracy(self) -> BoundError | None:
        """The gate on accuracy that what ``quantize`` measured misses, if any."""
        return self.accuracy.missed(self.measured)

    @property
    def enough_integers(self) -> bool:
        """Whether the audit reaches what was asked for."""
        asked = self.min_integer_coverage
        return asked is None or self.coverage.share >= asked

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the schema version first."""
        return {
            "schema_version": VALIDATION_SCHEMA,
            "bundle": str(self.bundle),
            "name": self.name,
            "scheme": self.scheme,
            "images": self.images,
            "images_source": self.images_source,
            "images_remarks": list(self.remarks),
            "passes": self.passes,
            "rungs": [rung.to_json() for rung in self.ladder.rungs],
            "require_engine": self.require_engine,
            "min_integer_coverage": self.min_integer_coverage,
            "coverage": self.coverage.to_json(),
            "accuracy": {**asdict(self.measured), **asdict(self.accuracy)},
        }

    def require(self) -> None:
        """Check parity, the engine and coverage.

        Raises:
            ParityError: a rung is below its bound.
            BoundError: a required engine did not run, too little runs in integers, or what
                ``quantize`` measured misses a gate on accuracy.
        """
        self.ladder.require()
        if self.missing_engine:
            raise no_engine(self.missing_engine)
        if not self.enough_integers:
            fallbacks = [f"{x.name}: {x.reason}" for x in self.coverage.fallbacks]
            raise BoundError(
                f"at least {100 * (self.min_integer_coverage or 0):g} % of the multiply-adds must "
                "run in integers",
                f"{100 * self.coverage.share:.1f} % ({'; '.join(fallbacks)})",
                "follow the remedy of each layer, or lower --min-integer-coverage",
            )
        if (missed := self.missed_accuracy) is not None:
            raise missed


def validate_bundle(options: ValidateOptions, progress: ProgressCallback = silent) -> Validation:
    """Compare all forms of a bundle's student; reports, whatever it finds.

    Raises:
        BundleError: not a bundle, changed, of another schema, or with a graph that is not its own;
            or the named engine or the outputs of a device are not of it.
        ExportError: ONNX Runtime does not accept a graph.
        ImageError: the image folder cannot be used.
        ParityError: logits are not finite.
    """
    from lrq_deploy.export.bundle.folder import load_bundle
    from lrq_deploy.export.device.outputs import judge_outputs
    from lrq_deploy.export.engine.run import open_engine
    from lrq_deploy.export.measures.coverage import audit
    from lrq_deploy.export.parity.ladder import Ladder, climb

    bundle = load_bundle(options.bundle)
    check_engine_file(options.engine, bundle)
    outputs = options.device_outputs
    device = () if outputs is None else (judge_outputs(bundle, outputs),)
    graph, dialects = _graphs(bundle)
    model = bundle.model()
    batches, count, remarks = _images(options, bundle, model)
    asked = options.engine is not None or options.require_engine
    ladder = climb(
        model,
        graph,
        batches,
        dialects,
        options.reference_count,
        options.threads,
        -(-count // _BATCH),
        progress,
        partial(open_engine, bundle, options.engine) if asked or "tensorrt" in dialects else None,
    )
    return Validation(
        bundle=options.bundle,
        name=model.name,
        scheme=model.scheme.describe(),
        images=count,
        images_source="synthetic" if options.images is None else "folder",
        ladder=Ladder((*ladder.rungs, *device)),
        coverage=audit(model, graph),
        min_integer_coverage=options.min_integer_coverage,
        remarks=remarks,
        require_engine=options.require_engine,
        measured=Measured.of(bundle.manifest.metrics),
        accuracy=options.accuracy,
    )


def _graphs(bundle: "Bundle") -> tuple[Path, dict[str, Path]]:
    """``model.onnx``, and the graphs for other runtimes by name, each of this bundle."""
    from lrq_deploy.export.bundle.own_graph import own_graph
    from lrq_deploy.export.targets import REFERENCE, targets

    others = targets().dialects(bundle.manifest.files)
    graph = own_graph(bundle, targets().get(REFERENCE))
    return graph, {name: own_graph(bundle, targets().get(name)) for name in others}


def _images(
    options: ValidateOptions, bundle: "Bundle", model: "QuantizedModel"
) -> "tuple[Iterator[Tensor], int, tuple[str, ...]]":
    """Batches, how many images there are in all, and remarks on them."""
    if options.images is None:
        from lrq_deploy.export.bundle.validation_images import synthetic_batches

        return synthetic_batches(bundle, model, options.count, _BATCH), options.count, ()
    from lrq_deploy.image_listing import FolderOption
    from lrq_deploy.images import read_image_folder

    option = FolderOption("--images", "images are then made from the bundle's own")
    about = (model.input_shape, model.preprocessing, None, options.count)
    found = read_image_folder(options.images, *about, option)
    return found.batches(_BATCH), len(found), found.remarks()
