"""Putting the weights of a file into a network, and saying exactly where they do not fit."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from lrq_deploy.checkpoint.naming import classes_of_shapes, without_prefixes
from lrq_deploy.errors import CheckpointError

__all__ = ["Difference", "differences", "fit_state_dict", "infer_num_classes"]

_SHOWN = 5
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Difference:
    """One name on which a file and a network disagree.

    Attributes:
        name: of the tensor.
        file_shape, network_shape: ``None`` where that side has no such tensor.
        file_dtype: set where the file holds integers for a floating point weight.
    """

    name: str
    file_shape: tuple[int, ...] | None
    network_shape: tuple[int, ...] | None
    file_dtype: str = ""

    def __str__(self) -> str:
        if self.file_shape is None:
            return f"{self.name} (missing; network {_text(self.network_shape)})"
        if self.network_shape is None:
            return f"{self.name} (unexpected; file {_text(self.file_shape)})"
        file = f"{self.file_dtype} {_text(self.file_shape)}".strip()
        return f"{self.name} (file {file}, network {_text(self.network_shape)})"


def _text(shape: tuple[int, ...] | None) -> str:
    return "[" + ",".join(str(n) for n in shape or ()) + "]"


def fit_state_dict(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    optional_prefixes: tuple[str, ...] = (),
    what: str = "the architecture",
) -> None:
    """Copy ``tensors`` into ``module``, dropping leading prefixes that all names share.

    Args:
        module: the network; changed in place only where everything fits.
        tensors: weights by name.
        optional_prefixes: names that begin so may be in the file without being in the
            network (auxiliary heads).
        what: the network's name for the message.

    Raises:
        CheckpointError: names the first five that are missing, unexpected or of another shape.
    """
    best: list[Difference] | None = None
    for candidate in without_prefixes(tensors):
        found = differences(module, candidate, optional_prefixes)
        if not found:
            wanted = module.state_dict().keys()
            module.load_state_dict({n: candidate[n] for n in wanted if n in candidate}, False)
            return
        if best is None or len(found) < len(best):
            best = found
    _check_nothing_beside(module, tensors, what)
    raise _misfit(best or [], what)


def differences(
    module: nn.Module, tensors: Mapping[str, Tensor], optional_prefixes: tuple[str, ...] = ()
) -> list[Difference]:
    """Where ``tensors`` do not fit ``module``: in the network's order, then the file's."""
    wanted = {name: t for name, t in module.state_dict().items() if isinstance(t, Tensor)}
    found: list[Difference] = []
    for name, target in wanted.items():
        value = tensors.get(name)
        if value is None:
            if not name.endswith(_COUNTER):
                found.append(Difference(name, None, tuple(target.shape)))
        elif target.is_floating_point() and not value.is_floating_point():
            dtype = str(value.dtype).removeprefix("torch.")
            found.append(Difference(name, tuple(value.shape), tuple(target.shape), dtype))
        elif value.shape != target.shape:
            found.append(Difference(name, tuple(value.shape), tuple(target.shape)))
    for name, value in tensors.items():
        if name not in wanted and not name.endswith(_COUNTER):
            if optional_prefixes and name.startswith(optional_prefixes):
                continue
            found.append(Difference(name, tuple(value.shape), None))
    return found


def _check_nothing_beside(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Tell a network that is in the file whole, with other tensors beside it."""
    first = next(iter(module.state_dict()), "")
    places = [name.removesuffix(first) for name in tensors if name.endswith(first)]
    for place in places:
        inside = {n.removeprefix(place): t for n, t in tensors.items() if n.startswith(place)}
        if any(d.network_shape is not None for d in differences(module, inside)):
            continue
        wanted = {place + name for name in module.state_dict()}
        beside = [name for name in tensors if name not in wanted]
        shown = ", ".join(beside[:_SHOWN]) + (", ..." if len(beside) > _SHOWN else "")
        raise CheckpointError(
            f"the state dict must hold the weights of {what} alone",
            f"all of them under {place!r}, and {len(beside)} other tensors: {shown}",
            "save a state dict without the others"
            + (f", its names without the leading {place!r}" if place else "")
            + "; lrq-deploy inspect without --arch writes the line for known networks",
        )


def infer_num_classes(tensors: Mapping[str, Tensor]) -> int | None:
    """Classes of a classifier's weights: rows of its last linear layer or 1x1 convolution.

    ``None`` where no such weight exists; see ``naming.classes_of_shapes``.
    """
    return classes_of_shapes({name: tensor.shape for name, tensor in tensors.items()})


def _misfit(found: list[Difference], what: str) -> CheckpointError:
    missing = sum(d.file_shape is None for d in found)
    unexpected = sum(d.network_shape is None for d in found)
    shown = "; ".join(str(d) for d in found[:_SHOWN]) + ("; ..." if len(found) > _SHOWN else "")
    return CheckpointError(
        f"the state dict must fit {what}",
        f"{missing} missing, {unexpected} unexpected and {len(found) - missing - unexpected} "
        f"tensors of another shape or type: {shown}",
        "pass the --arch that was trained, with the same number of classes",
    )
