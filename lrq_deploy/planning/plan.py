"""The plan of a run: one frozen description that the command line prints or dumps."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from lrq_deploy.graph.operators import LayerKind
from lrq_deploy.scheme import Scheme
from lrq_deploy.teacher import Preprocessing

__all__ = [
    "FLOAT_BITS",
    "PLAN_SCHEMA",
    "BatchNormVerdict",
    "Duration",
    "Execution",
    "Grouping",
    "LayerFacts",
    "Plan",
    "PlannedLayer",
    "PlannedQuantizer",
    "RuntimeForecast",
    "Sizes",
]

PLAN_SCHEMA = 2

FLOAT_BITS = 32

Grouping = Literal["dense", "grouped", "depthwise"]


@dataclass(frozen=True)
class LayerFacts:
    """One weighted layer of the student.

    Attributes:
        name: in the scale table.
        kind: operator.
        grouping: ``depthwise`` where every group has one input channel, ``grouped`` where there
            are several groups, ``dense`` elsewhere.
        weight_shape: in the operator's own layout.
        multiply_adds: for one image; a layer used twice counts twice.
        activations: elements of its input and output for one image.
        weight_bits, input_bits: nominal widths; ``FLOAT_BITS`` of what stays in float.
        gives_logits: its result is the network's, so nothing quantizes it.
    """

    name: str
    kind: LayerKind
    grouping: Grouping
    weight_shape: tuple[int, ...]
    multiply_adds: int
    activations: int
    weight_bits: int
    input_bits: int
    gives_logits: bool

    @property
    def is_float(self) -> bool:
        """Whether the scheme keeps it in float."""
        return self.weight_bits == FLOAT_BITS

    @property
    def is_weight_only(self) -> bool:
        """Whether its weights are integers and its input is not."""
        return self.input_bits == FLOAT_BITS and not self.is_float


@dataclass(frozen=True)
class Execution:
    """How one runtime computes a layer.

    Attributes:
        integer: whether it multiplies integers.
        kernel: in words, for instance ``INT8 convolution``.
        note: why it runs in float, or what to expect; empty if there is nothing to say.
    """

    integer: bool
    kernel: str
    note: str = ""


class RuntimeForecast(Protocol):
    """What one runtime makes of a student; every ``export.targets.Target`` says it."""

    @property
    def name(self) -> str:
        """Name for reports."""

    def execution(self, layer: LayerFacts, scheme: Scheme) -> Execution:
        """How it computes a layer that the scheme does not keep in float."""

    def what_bits_buy(self, scheme: Scheme, sizes: "Sizes") -> tuple[str, ...]:
        """Sentences on what the widths change there."""


@dataclass(frozen=True)
class PlannedLayer:
    """A layer and how each runtime computes it, by the runtime's name."""

    facts: LayerFacts
    executions: Mapping[str, Execution]


@dataclass(frozen=True)
class PlannedQuantizer:
    """An activation quantizer: name of its tensor, width, whether it holds negative values."""

    name: str
    bits: int
    signed: bool


@dataclass(frozen=True)
class Sizes:
    """Estimated bytes, BatchNorm folded in all but the first.

    Attributes:
        float_bytes: weights of the network in float32, each once.
        int8_bytes: the graph with one byte per weight.
        packed_bytes: the graph at the planned widths, four weights of 2 bits or two of at most
            4 per byte.
        memory_bytes: weights as a runtime holds them, one byte each, and the largest input and
            output of a layer for one image.
    """

    float_bytes: int
    int8_bytes: int
    packed_bytes: int
    memory_bytes: int


@dataclass(frozen=True)
class BatchNormVerdict:
    """Whether the generator has enough to go by.

    Attributes:
        layers: number of BatchNorms in the teacher.
        weighted: number of weighted layers.
        verdict: one sentence.
    """

    layers: int
    weighted: int
    verdict: str


@dataclass(frozen=True)
class Duration:
    """Estimated time of the run on this machine's CPU.

    Attributes:
        threads: that torch uses.
        teacher_ms, generator_ms: measured forward pass per image, in the precision of training.
        generator_steps, student_steps: of the recipe, on this CPU.
        seconds: estimate per stage.
    """

    threads: int
    teacher_ms: float
    generator_ms: float
    generator_steps: int
    student_steps: int
    seconds: Mapping[str, float]

    @property
    def total_seconds(self) -> float:
        """Estimate for the whole run."""
        return sum(self.seconds.values())


@dataclass(frozen=True)
class Plan:
    """What ``quantize`` would do with a network.

    Attributes:
        name: of the network.
        origin: where its weights came from.
        input_shape: ``(C, H, W)``.
        num_classes: length of a row of logits.
        scheme: bit widths.
        recipe: name of the recipe.
        layers: in graph order.
        quantizers: in graph order.
        sizes: on disk and in memory.
        batch_norm: whether the method applies.
        normalisation: what its BatchNorm has against how pixels are read; empty if nothing.
        fitting: how pixels are to be normalised instead; None where nothing is known of that.
        strays: multiply-adds of operators that are no layer and run in float, by operator.
        obstacle: why no graph can be written of it; empty if there is no reason.
        duration: of the run.
        advice: sentences on what the widths buy, by the runtime's name.
        alternative: what 8-bit activations would change; empty where they are planned.
        remarks: on the weights, and on options that change nothing.
    """

    name: str
    origin: str
    input_shape: tuple[int, int, int]
    num_classes: int
    scheme: Scheme
    recipe: str
    layers: tuple[PlannedLayer, ...]
    quantizers: tuple[PlannedQuantizer, ...]
    sizes: Sizes
    batch_norm: BatchNormVerdict
    normalisation: str
    obstacle: str
    duration: Duration
    advice: Mapping[str, tuple[str, ...]]
    alternative: str
    remarks: tuple[str, ...] = ()
    fitting: Preprocessing | None = None
    strays: Mapping[str, int] = field(default_factory=dict)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of all layers, and of what multiplies beside them, for one image."""
        layers = sum(layer.facts.multiply_adds for layer in self.layers)
        return layers + sum(self.strays.values())

    def integer_share(self, runtime: str) -> float:
        """Share of the multiply-adds that a runtime does in integers, 0..1."""
        done = sum(x.facts.multiply_adds for x in self.layers if x.executions[runtime].integer)
        return done / max(self.multiply_adds, 1)

    def to_json(self) -> dict[str, Any]:
        """Plain values with the schema version first and the sums last."""
        return {
            "schema_version": PLAN_SCHEMA,
            **asdict(self),
            "multiply_adds": self.multiply_adds,
            "integer_share": {name: self.integer_share(name) for name in self.advice},
            "total_seconds": self.duration.total_seconds,
        }
