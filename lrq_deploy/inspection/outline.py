"""What a model file tells of itself: the common product of every reader."""

from collections import Counter
from dataclasses import dataclass, field

from lrq_deploy.checkpoint.averaged import AveragedWeights
from lrq_deploy.wording import printable

__all__ = ["Outline", "TensorOutline", "operator_counts"]

_LIMIT = 2**63
_SHOWN_OPERATORS = 8


@dataclass(frozen=True)
class TensorOutline:
    """A tensor without its values.

    Attributes:
        shape: sizes; -1 where a file leaves a size open.
        dtype: as PyTorch calls it, without ``torch.``.

    Raises:
        ValueError: more elements, or a larger side, than any tensor has.
    """

    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        if max((*self.shape, self.count)) >= _LIMIT:
            raise ValueError("a tensor of 2**63 elements or more")

    @property
    def count(self) -> int:
        """Number of elements; 0 where a size is open."""
        total = 1
        for size in self.shape:
            total *= max(size, 0)
        return total


@dataclass(frozen=True)
class Outline:
    """What one reader found.

    Attributes:
        description: what the file is, in a few words.
        written_by: who wrote it, as far as the file tells.
        tensors: parameters and buffers by the names in the file.
        facts: further statements of the file, by title.
        keys: that lead to the weights.
        beside: what else holds tensors, such as an optimizer, with their number.
        unsafe_globals: what loading it plainly would import and may run; empty for no code.
        plain: whether ``torch.load`` reads the file with ``weights_only=True``.
        module_class: class of a pickled module.
        input_shape: ``[N, C, H, W]`` where the file states it, -1 for an open size.
        num_classes: length of a row of logits where the file states it.
        stated: what the file calls its architecture.
        averaged: weights beside these, which quantize does not read.
        class_names: that the file states, in the order of the logits.
        training: operator of its graph that does what it does in training; empty for none.
    """

    description: str
    written_by: str
    tensors: dict[str, TensorOutline]
    facts: dict[str, str] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    unsafe_globals: tuple[str, ...] = ()
    plain: bool = True
    module_class: str = ""
    input_shape: tuple[int, ...] | None = None
    num_classes: int | None = None
    stated: tuple[str, ...] = ()
    averaged: AveragedWeights | None = None
    class_names: tuple[str, ...] = ()
    training: str = ""

    @property
    def location(self) -> str:
        """The keys for people, joined by dots."""
        return ".".join(self.keys)


def operator_counts(operators: Counter[str]) -> str:
    """How many there are, and which are the most common."""
    most = operators.most_common(_SHOWN_OPERATORS)
    shown = ", ".join(f"{count} {printable(name)}" for name, count in most)
    return f"{operators.total()}: {shown}" + (", ..." if len(operators) > len(most) else "")
