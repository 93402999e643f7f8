"""Putting the weights of a file into a network, and saying exactly where they do not fit."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from lrq_deploy.checkpoint.naming import (
    COUNTERS,
    strip_wrappers,
    without_prefixes,
)
from lrq_deploy.checkpoint.quantized import float_weights_remedy
from lrq_deploy.checkpoint.saving import WeightsSource, saving_line
from lrq_deploy.errors import CheckpointError
from lrq_deploy.wording import counted, shape_text

__all__ = ["Difference", "differences", "fit_state_dict"]

_SHOWN = 5


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
            return f"{self.name} (missing; network {shape_text(self.network_shape or ())})"
        if self.network_shape is None:
            return f"{self.name} (unexpected; file {shape_text(self.file_shape)})"
        file = f"{self.file_dtype} {shape_text(self.file_shape)}".strip()
        return f"{self.name} (file {file}, network {shape_text(self.network_shape or ())})"


def fit_state_dict(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    optional_prefixes: tuple[str, ...] = (),
    what: str = "the architecture",
    source: WeightsSource | None = None,
) -> None:
    """Copy ``tensors`` into ``module``, dropping leading prefixes that all names share.

    The names of wrappers were dropped on reading; a network with a part called ``module``, or one
    that is compiled, gets them back.

    Args:
        module: the network; changed in place only where everything fits.
        tensors: weights by name.
        optional_prefixes: names that begin so may be in the file without being in the
            network (auxiliary heads).
        what: the network's name for the message.
        source: of the weights, for the remedy.

    Raises:
        CheckpointError: names the first five that are missing, unexpected or of another shape.
    """
    best: list[Difference] | None = None
    for candidate in _candidates(module, tensors):
        found = differences(module, candidate, optional_prefixes)
        if not found:
            wanted = module.state_dict().keys()
            module.load_state_dict({n: candidate[n] for n in wanted if n in candidate}, False)
            return
        if best is None or len(found) < len(best):
            best = found
    _check_nothing_beside(module, tensors, what, source)
    weights = "torch.load(...)" if source is None else source.expression
    raise _misfit(best or [], what, float_weights_remedy(tensors, weights))


def differences(
    module: nn.Module, tensors: Mapping[str, Tensor], optional_prefixes: tuple[str, ...] = ()
) -> list[Difference]:
    """Where ``tensors`` do not fit ``module``: in the network's order, then the file's."""
    wanted = {name: t for name, t in module.state_dict().items() if isinstance(t, Tensor)}
    found: list[Difference] = []
    for name, target in wanted.items():
        value = tensors.get(name)
        if value is None:
            if not name.endswith(COUNTERS):
                found.append(Difference(name, None, tuple(target.shape)))
        elif target.is_floating_point() and not value.is_floating_point():
            dtype = str(value.dtype).removeprefix("torch.")
            found.append(Difference(name, tuple(value.shape), tuple(target.shape), dtype))
        elif value.shape != target.shape:
            found.append(Difference(name, tuple(value.shape), tuple(target.shape)))
    for name, value in tensors.items():
        if name not in wanted and not name.endswith(COUNTERS):
            if optional_prefixes and name.startswith(optional_prefixes):
                continue
            found.append(Difference(name, tuple(value.shape), None))
    return found


def _candidates(module: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    own = _without_wrappers(module)
    for named in without_prefixes(tensors):
        yield named
        wrapped = {own.get(name, name): tensor for name, tensor in named.items()}
        if len(wrapped) == len(named) and wrapped.keys() != named.keys():
            yield wrapped


def _without_wrappers(module: nn.Module) -> dict[str, str]:
    """Names of a network's tensors, by what is left of them where weights are read."""
    return strip_wrappers({name: name for name in module.state_dict()})


def _check_nothing_beside(
    module: nn.Module, tensors: Mapping[str, Tensor], what: str, source: WeightsSource | None
) -> None:
    """Tell a network that is in the file whole, with other tensors beside it."""
    own = _without_wrappers(module)
    first = next(iter(own), "")
    places = [name.removesuffix(first) for name in tensors if name.endswith(first)]
    for place in places:
        below = {n.removeprefix(place): t for n, t in tensors.items() if n.startswith(place)}
        inside = {own.get(name, name): tensor for name, tensor in below.items()}
        if any(d.network_shape is not None for d in differences(module, inside)):
            continue
        wanted = {place + name for name in own}
        kept = [name for name in tensors if name in wanted]
        rest = [name for name in tensors if name not in wanted and not name.endswith(COUNTERS)]
        shown = ", ".join(rest[:_SHOWN]) + (", ..." if len(rest) > _SHOWN else "")
        raise CheckpointError(
            f"the state dict must hold the weights of {what} alone",
            f"all of them under {place!r}, and {counted(len(rest), 'other tensor')}: {shown}",
            _save_alone(place, first, kept, rest, source),
        )


def _save_alone(
    place: str, first: str, kept: list[str], rest: list[str], source: WeightsSource | None
) -> str:
    without = f", its names without the leading {place!r}" if place else ""
    remedy = f"save a state dict without the others{without}"
    if source is None:
        return remedy
    names = source.names
    prefix = names[place + first].removesuffix(first)
    # A wrapper inside of the network stands before some of its names alone.
    prefix = prefix if all(names[name].startswith(prefix) for name in kept) else ""
    line = saving_line(source, prefix, [names[n] for n in kept], [names[n] for n in rest])
    return f"{remedy} ({line}) and pass {source.target}"


def _misfit(found: list[Difference], what: str, remedy: str) -> CheckpointError:
    missing = sum(d.file_shape is None for d in found)
    unexpected = sum(d.network_shape is None for d in found)
    shown = "; ".join(str(d) for d in found[:_SHOWN]) + ("; ..." if len(found) > _SHOWN else "")
    return CheckpointError(
        f"the state dict must fit {what}",
        f"{missing} missing, {unexpected} unexpected and "
        f"{counted(len(found) - missing - unexpected, 'tensor')} of another shape or type: {shown}",
        remedy or "pass the --arch that was trained, with the same number of classes",
    )
