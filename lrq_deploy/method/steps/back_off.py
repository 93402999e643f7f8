"""Steps that run out of memory are taken back and repeated with the batch in more pieces."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from lrq_deploy.errors import DeviceMemoryError
from lrq_deploy.method.steps.pieces import Pieces
from lrq_deploy.ranks import ALONE, OutOfMemoryElsewhere, Ranks

__all__ = ["BackOff", "Moving", "RepeatableStage"]

RUNS_OUT = frozenset({"cuda"})
"""Types of device whose lack of memory is an error that a program survives."""


@dataclass(frozen=True)
class Moving:
    """What a step changes in place, before it counts itself as done.

    Attributes:
        tensors: weights, buffers, pixels.
        optimizers: with their own state.
        randoms: sources of random numbers.
    """

    tensors: list[Tensor]
    optimizers: list[torch.optim.Optimizer]
    randoms: list[torch.Generator] = field(default_factory=list)


class RepeatableStage(Protocol):
    """A stage whose steps can be taken back."""

    @property
    def name(self) -> str:
        """Name for errors."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    def pieces(self) -> Pieces:
        """In how many pieces it takes its batch."""

    @property
    def steps_done(self) -> int:
        """Steps finished so far."""

    def prepare(self) -> None:
        """Draw what the next step works on, unless it is there; may be interrupted and repeated.

        Alone: ranks meet in ``step``, for some may have prepared before others ran out.
        """

    def moving(self) -> Moving:
        """What the next step will change; asked when it is prepared."""

    def step(self) -> None:
        """Do the step, but for what ``commit`` does.

        It changes what ``moving`` names; what else it keeps, a repetition makes alike.
        """

    def commit(self) -> None:
        """Count the step, which is not taken back any more; takes no memory of the device."""


class BackOff:
    """Does the steps of a stage, in smaller pieces once the device is out of memory.

    Args:
        stage: whose steps are done.
        say: receives a sentence for the user.
        ranks: that share each step.
    """

    def __init__(
        self, stage: RepeatableStage, say: Callable[[str], None], ranks: Ranks = ALONE
    ) -> None:
        self._stage = stage
        self._say = say
        self._ranks = ranks
        self._guarded = stage.device.type in RUNS_OUT
        self._undo = _Undo()

    def step(self) -> None:
        """Do one step; where one rank is out of memory, all take it back and repeat it.

        Raises:
            DeviceMemoryError: the smallest pieces do not fit.
        """
        while (complaint := self._attempt()) is not None:
            # Only here, behind the handler, has the error let go of the tensors of the step.
            self._undo.take_back()
            torch.cuda.empty_cache()
            pieces, step = self._stage.pieces, self._stage.steps_done + 1
            tried = pieces.images // pieces.count
            if not self._guarded or not pieces.shrink():
                raise self._too_large(tried, complaint)
            self._say(
                f"out of memory at step {step:,} ({complaint}); "
                f"goes on with each batch in {pieces.count} pieces"
            )

    def _attempt(self) -> str | None:
        """Do the step; what torch says where there was no memory for it."""
        self._undo.forget()
        complaint = ""
        try:
            self._stage.prepare()
            if self._guarded:
                self._undo.mark(self._stage.moving())
            self._stage.step()
        except torch.OutOfMemoryError as error:
            # "CUDA out of memory. Tried to allocate ... GPU 0 has ... of which ... is free."
            complaint = ". ".join(str(error).split(". ")[1:3]) or "no memory"
        except OutOfMemoryElsewhere:
            return self._everyones(complaint)
        if not self._ranks.all_fit(not complaint):
            return self._everyones(complaint)
        self._stage.commit()
        return None

    def _everyones(self, complaint: str) -> str:
        if self._ranks.count == 1:
            return complaint
        told = enumerate(self._ranks.gathered(complaint))
        return "; ".join(f"rank {rank}: {words}" for rank, words in told if words)

    def _too_large(self, images: int, complaint: str) -> DeviceMemoryError:
        fewer = "pass more processes, which share a batch; " if self._ranks.count > 1 else ""
        return DeviceMemoryError(
            f"{images} images of the {self._stage.name} stage must fit into the memory of a device",
            complaint,
            f"{fewer}end what else runs there, pass a smaller --input-shape, or --device cpu",
        )


class _Undo:
    """Copies of what a step changes, on its device; each step writes them anew."""

    def __init__(self) -> None:
        self._moving: Moving | None = None
        self._tensors: list[Tensor] = []
        self._copies: list[Tensor] = []
        self._randoms: list[Tensor] = []
        self._states: list[set[Tensor]] = []

    def forget(self) -> None:
        """Keep what the last step did."""
        self._moving = None

    def mark(self, moving: Moving) -> None:
        """Remember ``moving`` as it is."""
        states = [state for o in moving.optimizers for state in o.state.values()]
        found = [v for state in states for v in state.values() if isinstance(v, Tensor)]
        self._tensors = [tensor.detach() for tensor in (*moving.tensors, *found)]
        if [t.shape for t in self._copies] != [t.shape for t in self._tensors]:
            self._copies = [torch.empty_like(tensor) for tensor in self._tensors]
        _copy(self._tensors, self._copies)
        self._randoms = [random.get_state() for random in moving.randoms]
        self._states = [set(optimizer.state) for optimizer in moving.optimizers]
        self._moving = moving

    def take_back(self) -> None:
        """Make it again what it was at the last ``mark``; nothing after ``forget``."""
        moving = self._moving
        if moving is None:
            return
        _copy(self._copies, self._tensors)
        for random, state in zip(moving.randoms, self._randoms, strict=True):
            random.set_state(state)
        for optimizer, known in zip(moving.optimizers, self._states, strict=True):
            optimizer.zero_grad(set_to_none=True)
            for parameter in optimizer.state.keys() - known:
                del optimizer.state[parameter]


def _copy(sources: list[Tensor], targets: list[Tensor]) -> None:
    """Few kernels however many tensors there are: one for those of a kind."""
    kinds = [(tensor.device, tensor.dtype) for tensor in sources]
    for kind in dict.fromkeys(kinds):
        chosen = [number for number, other in enumerate(kinds) if other == kind]
        torch._foreach_copy_([targets[n] for n in chosen], [sources[n] for n in chosen])
