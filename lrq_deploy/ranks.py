"""Processes that share a run: each makes its part of a batch, all keep the same weights.

Every sum goes through ``torch.distributed``: Gloo for what is on the CPU, NCCL for what is on
CUDA. Methods are called by all processes in the same order. A process alone does nothing here.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lrq_deploy.errors import LrqError, OptionError, RankLostError
from lrq_deploy.launch import Launch

__all__ = ["ALONE", "OutOfMemoryElsewhere", "Ranks", "joined_ranks"]

PATIENCE = timedelta(minutes=10)
"""How long a process may be late for a step; the slowest step takes seconds."""

LEAST_SHARE = 4
"""Images of a batch that each rank needs: two classes, two images of each."""

_WHOLE_RUN = timedelta(days=7)
"""What one rank does for all may take as long as it takes; a dead process is seen at once."""

_ROLL_CALL = timedelta(seconds=20)

T = TypeVar("T")


class OutOfMemoryElsewhere(Exception):  # noqa: N818 - not an error of this process
    """Another rank has no memory for its part of a step, so this one ends its own part too."""


@dataclass(frozen=True)
class _Groups:
    """Connections among all ranks, by what they carry.

    Attributes:
        steps: tensors on the CPU.
        device: tensors on the device of the run.
        words: objects.
        roll_call: who is there, once another connection has failed.
    """

    steps: dist.ProcessGroup
    device: dist.ProcessGroup
    words: dist.ProcessGroup
    roll_call: dist.ProcessGroup

    def close(self) -> None:
        """End the connections."""
        # On the CPU two are one; all ranks end them in the same order.
        for group in dict.fromkeys((self.steps, self.device, self.words, self.roll_call)):
            dist.destroy_process_group(group)


@dataclass(frozen=True)
class Ranks:
    """This process among those that share the run.

    Attributes:
        rank: of this process, from 0.
        count: of processes, 1 or more.
    """

    rank: int = 0
    count: int = 1
    _groups: _Groups | None = None

    @property
    def first(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def check_batch(self, batch_size: int) -> None:
        """Refuse a number of processes that a batch does not divide among.

        Raises:
            OptionError: the shares are uneven, odd or too small.
        """
        share, rest = divmod(batch_size, self.count)
        if self.count > 1 and (rest or share % 2 or share < LEAST_SHARE):
            fit = [n for n in range(1, batch_size) if batch_size % (2 * n) == 0]
            allowed = ", ".join(str(n) for n in fit if batch_size // n >= LEAST_SHARE)
            raise OptionError(
                f"processes must divide a batch of {batch_size} images into even parts of "
                f"{LEAST_SHARE} or more",
                f"{self.count} processes",
                f"pass --nproc-per-node with one of {allowed}",
            )

    def part(self, size: int) -> slice:
        """This rank's part of ``size`` things, which all ranks share equally."""
        share = size // self.count
        return slice(self.rank * share, (self.rank + 1) * share)

    def on_first(self, work: Callable[[], T]) -> T:
        """What ``work`` returns on the first rank, or how it fails there, on every rank."""
        if self._groups is None:
            return work()
        told: list[tuple[Any, BaseException | None]] = [(None, None)]
        if self.first:
            try:
                told = [(work(), None)]
            except (LrqError, KeyboardInterrupt) as error:
                told = [(None, error)]
        with self._naming_the_missing():
            dist.broadcast_object_list(told, 0, self._groups.words)
        ((result, failure),) = told
        if failure is not None:
            raise failure
        answer: T = result
        return answer

    def together(self, work: Callable[[], T]) -> T:
        """``work`` on every rank; where it fails on one, that error on all of them."""
        if self._groups is None:
            return work()
        result, failure = None, None
        try:
            result = work()
        except LrqError as error:
            failure = error
        failures = [error for error in self.gathered(failure) if error is not None]
        if failures:
            raise failures[0]
        answer: T = result  # type: ignore[assignment]
        return answer

    def gathered(self, value: T) -> list[T]:
        """The values of all ranks, in their order, on every rank."""
        if self._groups is None:
            return [value]
        values: list[Any] = [None] * self.count
        with self._naming_the_missing():
            dist.all_gather_object(values, value, self._groups.words)
        return values

    def largest(self, *values: float) -> tuple[float, ...]:
        """Each value as large as on the rank where it is largest."""
        if self._groups is None:
            return values
        numbers = torch.tensor(values, dtype=torch.float64)
        self._reduce(numbers, dist.ReduceOp.MAX)
        return tuple(numbers.tolist())

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """The mean of each value over the ranks; NaN where one is."""
        if self._groups is None or not values:
            return dict(values)
        numbers = torch.tensor([*values.values()], dtype=torch.float64)
        self._reduce(numbers)
        return dict(zip(values, (numbers / self.count).tolist(), strict=True))

    def all_fit(self, fits: bool) -> bool:
        """Whether the step has fitted into the memory of every rank up to here.

        Ranks meet here before each sum of a step, and a rank that runs out comes here at once:
        no other then waits in a sum for a part that never comes.
        """
        return not self.largest(not fits)[0]

    def pooled(self, moments: Tensor) -> Tensor:
        """The mean of ``moments`` over the ranks.

        The gradient is that of this rank's part of the mean, times the number of ranks: the
        average over the ranks is then the gradient of the whole.

        Raises:
            OutOfMemoryElsewhere: see there.
        """
        if self._groups is None:
            return moments
        total = moments.detach().clone()
        self._check_all_fit()
        self._reduce(total)
        return total / self.count + (moments - moments.detach())

    def average_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Replace every gradient that ``optimizer`` follows by its mean over the ranks.

        Raises:
            OutOfMemoryElsewhere: see there.
        """
        if self._groups is None:
            return
        moved = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in moved if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        self._check_all_fit()
        self._reduce(flat)
        flat /= self.count
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))

    def align(self, module: nn.Module) -> None:
        """Give ``module`` the state that it has on the first rank."""
        if self._groups is None:
            return
        for tensor in module.state_dict().values():
            sent = tensor.detach().contiguous()
            with self._naming_the_missing():
                dist.broadcast(sent, 0, self._group_of(sent))
            with torch.no_grad():
                tensor.copy_(sent)

    def collected(self, images: Tensor) -> Tensor:
        """The ``[N, ...]`` of all ranks, in their order, as ``[count * N, ...]``.

        Raises:
            OutOfMemoryElsewhere: see there.
        """
        if self._groups is None:
            return images
        mine = images.detach().contiguous()
        everyones = [torch.empty_like(mine) for _ in range(self.count)]
        self._check_all_fit()
        with self._naming_the_missing():
            dist.all_gather(everyones, mine, self._group_of(mine))
        return torch.cat(everyones)

    def _check_all_fit(self) -> None:
        if not self.all_fit(True):
            raise OutOfMemoryElsewhere

    def _reduce(self, tensor: Tensor, by: Any = dist.ReduceOp.SUM) -> None:
        with self._naming_the_missing():
            dist.all_reduce(tensor, by, self._group_of(tensor))

    def _group_of(self, tensor: Tensor) -> dist.ProcessGroup | None:
        if self._groups is None:
            return None
        return self._groups.device if tensor.is_cuda else self._groups.steps

    @contextmanager
    def _naming_the_missing(self) -> Iterator[None]:
        """Turn the failure of a collective into an error that names who is missing.

        Raises:
            RankLostError: a process has died or is too late.
        """
        try:
            yield
        except RuntimeError as error:
            absent = ", ".join(str(rank) for rank in self._absent())
            raise RankLostError(
                f"all {self.count} processes of the run must take part in every step",
                f"no answer from rank {absent}" if absent else f"{error}".splitlines()[0],
                "its own output says why; the same command with --resume continues the run",
            ) from error

    def _absent(self) -> list[int]:
        """Ranks that do not answer the first one; on the others, the first one if it does not."""
        absent = []
        word, group = torch.zeros(1), None if self._groups is None else self._groups.roll_call
        for rank in range(1, self.count) if self.first else [0]:
            try:
                if self.first:
                    dist.recv(word, rank, group)
                else:
                    dist.send(word, rank, group)
            except RuntimeError:
                absent.append(rank)
        return absent


ALONE = Ranks()
"""A process that shares its run with none."""


@contextmanager
def joined_ranks(
    launched: Launch, device: torch.device, patience: timedelta = PATIENCE
) -> Iterator[Ranks]:
    """The processes of a launch, connected; alone where there is one.

    The default process group is the caller's, or made here and left until the process ends: its
    store keeps the addresses of a group that was taken down, and a second one would read them.

    Args:
        launched: see ``lrq_deploy.launch``.
        device: of this process.
        patience: how long one may keep the others waiting in a step.

    Raises:
        RankLostError: not all of them came.
    """
    if launched.count == 1:
        yield ALONE
        return
    groups = _met(launched, device, patience)
    try:
        yield Ranks(launched.rank, launched.count, groups)
    except LrqError as error:
        # What ends one ends all of them.
        error.told_elsewhere = not launched.first
        raise
    finally:
        groups.close()


def _met(launched: Launch, device: torch.device, patience: timedelta) -> _Groups:
    try:
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=PATIENCE)
        return _connected(device, patience)
    except RuntimeError as error:
        address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
        raise RankLostError(
            f"the {launched.count} processes of the run must find each other at {address}:{port}",
            f"{error}".splitlines()[0],
            "start all of them at the same time, and with torchrun, which finds a free port",
        ) from error


def _connected(device: torch.device, patience: timedelta) -> _Groups:
    steps = _group("gloo", patience)
    # NCCL ends the process when it loses patience, so Gloo must lose it first, and say why.
    tensors = _group("nccl", 2 * patience) if device.type == "cuda" else steps
    roll_call = _group("gloo", min(patience, _ROLL_CALL))
    return _Groups(steps, tensors, _group("gloo", _WHOLE_RUN), roll_call)


def _group(backend: str, timeout: timedelta) -> dist.ProcessGroup:
    """A connection among all ranks; each is a member."""
    return cast(dist.ProcessGroup, dist.new_group(backend=backend, timeout=timeout))
