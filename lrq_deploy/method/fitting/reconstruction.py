"""Fit the student block by block: every block learns to give what the teacher's block gives.

BRECQ (Li et al. 2021, arXiv 2102.05426) with QDrop (Wei et al. 2022, arXiv 2203.05740): from the
image to the logits, one block at a time learns the rounding of its weights, its biases and the
scales of its activations. It reads what the student before it gives, in places mixed with what
the teacher gives; the loss is the squared error of its output relative to the variance of
the teacher's.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from lrq_deploy.graph.called_modules import called_modules
from lrq_deploy.graph.finite_gradients import finite_gradients
from lrq_deploy.graph.on_device import on_device
from lrq_deploy.method.fitting.augmented_batches import AugmentedBatches
from lrq_deploy.method.fitting.squared_error import squared_error
from lrq_deploy.method.fitting.typical_size import bias_size
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.method.steps.back_off import Moving
from lrq_deploy.method.steps.context import StageContext
from lrq_deploy.method.steps.pieces import Pieces
from lrq_deploy.method.steps.precision import COARSE_BITS, coarsest_bits, reduced_precision
from lrq_deploy.ranks import Ranks
from lrq_deploy.student.layers import ActQuantizer, FloatMix, QuantizedLayer
from lrq_deploy.student.segments import Segment, segment_graph, segments_of

__all__ = ["BlockReconstruction"]

MAP_BYTES = 512 * 2**20
"""Room for what a block reads and gives; large maps leave room for fewer images."""
MAP_BATCH = 128
"""Images of one pass that computes these maps."""

FREE_SHARE = 0.2
"""Share of the steps in which the rounding is not yet driven to a decision."""
SHARPNESS = (20.0, 2.0)
"""Exponent of the penalty on undecided weights: at first it leaves most of them free."""


class BlockReconstruction:
    """Fits ``student`` in place, which must be calibrated, for ``run_stage``.

    Args:
        student: placed and calibrated; moved to the device.
        teacher: its ``float_twin``; moved to the device.
        images: normalised synthetic images ``[N, C, H, W]`` on the CPU.
        settings: steps, rates and batch size.
        context: where, with whom and from which seed to fit.
        overlays: that the images are blended with, see ``AugmentedBatches``.
    """

    name = "blocks"

    def __init__(
        self,
        student: fx.GraphModule,
        teacher: fx.GraphModule,
        images: Tensor,
        settings: RecipeSettings,
        context: StageContext,
        overlays: Tensor | None = None,
    ) -> None:
        device, ranks = context.device, context.ranks
        self.watched = on_device(student, device).to(memory_format=torch.channels_last)
        graphs = [(segment, segment_graph(student, segment)) for segment in segments_of(student)]
        # One without layers has no rounding to learn.
        graphs = [(segment, g) for segment, g in graphs if called_modules(g, QuantizedLayer)]
        self._segments = [segment for segment, _ in graphs]
        self._scales = [{id(scale) for scale in _act_scales(g)} for _, g in graphs]
        self.steps = len(self._segments) * settings.block_steps
        self.steps_done = 0
        self.images_per_step = settings.batch_size
        self._teacher = on_device(teacher, device).to(memory_format=torch.channels_last)
        self._images = images
        self._overlays = overlays
        self._settings = settings
        self._seed = context.seed
        self.device = device
        # Of batches, and of the passes that compute the maps; either is cut evenly.
        self._map_batch = min(MAP_BATCH, settings.batch_size, len(images))
        self.pieces = Pieces(math.gcd(settings.batch_size, self._map_batch) // ranks.count)
        self._ranks = ranks
        self._block: _Block | None = None
        self._settled: list[Tensor] | None = None
        self._losses: dict[str, Tensor] = {}

    def prepare(self) -> None:
        """Begin the next block where none is at hand."""
        self._at_hand()

    def moving(self) -> Moving:
        """What is learned of the block at hand."""
        return self._at_hand().moving()

    def step(self) -> None:
        """One batch for the block at hand; before, the next block where there is none."""
        block = self._at_hand()
        self._losses = block.step()
        last = (self.steps_done + 1) % self._settings.block_steps == 0
        self._settled = block.settled() if last else None

    def commit(self) -> None:
        """Count the step; behind the last one of a block, its weights are rounded as learned."""
        block = self._at_hand()
        if self._settled is not None:
            block.settle(self._settled)
            self._block = self._settled = None
        block.done += 1
        self.steps_done += 1

    def _at_hand(self) -> "_Block":
        if self._block is None:
            self._block = self._next_block()
        return self._block

    def _next_block(self) -> "_Block":
        number = self.steps_done // self._settings.block_steps
        segment = self._segments[number]
        seed = self._seed + number
        batches = AugmentedBatches(self._images, self._map_batch, seed, self._ranks, self._overlays)
        most = len(self._images) // self._ranks.count
        maps = _maps(self.watched, self._teacher, segment, batches, most, self.device, self.pieces)
        learned = set[int]().union(*self._scales[:number])
        random = torch.Generator(self.device).manual_seed(seed)
        graph = finite_gradients(segment_graph(self.watched, segment))
        return _Block(graph, maps, self._settings, learned, random, self._ranks, self.pieces)

    def terms(self) -> dict[str, float]:
        """Loss terms of the last step."""
        return {name: float(value.detach()) for name, value in self._losses.items()}

    def state_dict(self) -> dict[str, Any]:
        """State of the student and of the block at hand."""
        return {
            "steps_done": self.steps_done,
            "student": self.watched.state_dict(),
            "block": None if self._block is None else self._block.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``; what the block reads is computed again."""
        self.steps_done = state["steps_done"]
        self.watched.load_state_dict(state["student"])
        self._block = None
        if state["block"] is not None:
            self._block = self._next_block()
            self._block.load_state_dict(state["block"])


@dataclass(frozen=True)
class _Maps:
    """What a block reads, from the student and from the teacher, and what it is to give."""

    read: Tensor
    ideal: Tensor
    wanted: Tensor


@torch.no_grad()
def _maps(
    student: fx.GraphModule,
    teacher: fx.GraphModule,
    segment: Segment,
    batches: AugmentedBatches,
    most: int,
    device: torch.device,
    pieces: Pieces,
) -> _Maps:
    """Of ``most`` augmented images or as many as there is room for, at least one batch."""
    give = segment_graph(teacher, segment)
    before = None if segment.start is None else Segment(None, segment.start)
    read = None if before is None else segment_graph(student, before)
    ideal = None if before is None else segment_graph(teacher, before)
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    room = float(MAP_BYTES)
    while room > 0 and sum(len(row[0]) for row in rows) < most:
        batch = batches.draw().images
        batch = batch.to(device, memory_format=torch.channels_last, non_blocking=True)
        best = batch if ideal is None else pieces.mapped(ideal, batch)
        mine = batch if read is None else pieces.mapped(read, batch)
        rows.append((mine, best, pieces.mapped(give, best)))
        room -= sum(t.numel() * t.element_size() for t in rows[-1])
    # A second copy of the only rows would take their room again.
    return _Maps(*(c[0] if len(c) == 1 else torch.cat(c) for c in zip(*rows, strict=True)))


class _Block:
    """One block while it learns; each rank has maps of its own, and all choose rows alike."""

    def __init__(
        self,
        graph: fx.GraphModule,
        maps: _Maps,
        settings: RecipeSettings,
        learned: set[int],
        random: torch.Generator,
        ranks: Ranks,
        pieces: Pieces,
    ) -> None:
        self._graph = graph
        self._maps = maps
        self._steps = settings.block_steps
        self._ranks = ranks
        self._pieces = pieces
        self._batch_size = min(settings.batch_size // ranks.count, len(maps.read))
        self._weight = settings.rounding_weight
        self._reduced = settings.reduced_precision and coarsest_bits(graph) <= COARSE_BITS
        self._random = random
        self._mix = FloatMix(settings.float_share, random)
        # Offsets that all images share say nothing of what a block tells apart.
        self._variance = maps.wanted.var(0).mean()
        self._size: Tensor | None = None
        self._layers = list(called_modules(graph, QuantizedLayer).values())
        self._quantizers = list(called_modules(graph, ActQuantizer).values())
        self._roundings = [layer.learn_rounding() for layer in self._layers]
        for quantizer in self._quantizers:
            quantizer.float_mix = None if quantizer.known_range else self._mix
        self._optimizer = self._make_optimizer(settings, learned)
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self.done = 0

    def _make_optimizer(self, settings: RecipeSettings, learned: set[int]) -> torch.optim.Adam:
        """Biases relative to their size, as those of ``student_training``."""
        choices = [rounding.preference for rounding in self._roundings]
        groups: list[dict[str, Any]] = [{"params": choices, "lr": settings.rounding_rate}]
        for layer in self._layers:
            if layer.bias is not None:
                rate = settings.weight_rate * bias_size(layer)
                groups.append({"params": [layer.bias], "lr": rate})
        scales = [q.log_scale for q in self._quantizers if q.learns]
        # A scale that an earlier block shares is what that block was fitted to.
        own = [scale for scale in scales if id(scale) not in learned]
        groups.append({"params": own, "lr": settings.block_scale_rate})
        return torch.optim.Adam([group for group in groups if group["params"]])

    def step(self) -> dict[str, Tensor]:
        """One batch, which the caller counts; the loss terms."""
        part = self.done / self._steps
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * part))
        maps = self._maps
        chosen = torch.randint(
            len(maps.read),
            (self._batch_size,),
            generator=self._random,
            device=self._random.device,
        )
        mixed = self._mix(maps.read[chosen], maps.ideal[chosen])
        wanted = maps.wanted[chosen]
        size = self._pooled_size()

        def loss(errors: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            error = errors.sum() / (wanted.numel() * size)
            indecision = torch.stack([r.indecision(_sharpness(part)) for r in self._roundings])
            undecided = indecision.mean()
            total = error + self._weight * undecided if part >= FREE_SHARE else error
            return total, {"error": error, "undecided": undecided}

        self._optimizer.zero_grad(set_to_none=True)
        losses = self._pieces.backward((mixed, wanted), self._error, loss)
        self._ranks.average_gradients(self._optimizer)
        self._optimizer.step()
        return losses

    def _pooled_size(self) -> Tensor:
        """Variance of what is wanted, of all ranks; they meet in steps only, see ``BackOff``."""
        if self._size is None:
            self._size = self._ranks.pooled(self._variance).clamp_min(1e-12)
        return self._size

    def _error(self, read: Tensor, wanted: Tensor) -> tuple[Tensor]:
        """Of some rows: the sum of the squared errors, ``[1]``."""
        with reduced_precision(read.device, self._reduced):
            given = self._graph(read)
        return (squared_error(given, wanted.to(given.dtype))[None],)

    def moving(self) -> Moving:
        """What the optimiser moves, and the random numbers."""
        moved = [p for group in self._optimizer.param_groups for p in group["params"]]
        return Moving(moved, [self._optimizer], [self._random])

    def settled(self) -> list[Tensor]:
        """Every weight, rounded as it was learned."""
        return [layer.settled_weight() for layer in self._layers]

    def settle(self, weights: list[Tensor]) -> None:
        """Take what ``settled`` gave; quantize every value again."""
        for layer, weight in zip(self._layers, weights, strict=True):
            layer.settle_rounding(weight)
        for quantizer in self._quantizers:
            quantizer.float_mix = None

    def state_dict(self) -> dict[str, Any]:
        return {
            "done": self.done,
            "roundings": [rounding.state_dict() for rounding in self._roundings],
            "optimizer": self._optimizer.state_dict(),
            "rates": self._rates,
            "random": self._random.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.done = state["done"]
        for rounding, kept in zip(self._roundings, state["roundings"], strict=True):
            rounding.load_state_dict(kept)
        self._optimizer.load_state_dict(state["optimizer"])
        self._rates = list(state["rates"])
        self._random.set_state(state["random"])


def _sharpness(part: float) -> float:
    """The exponent after a part 0..1 of the steps."""
    first, last = SHARPNESS
    return first + (last - first) * max(part - FREE_SHARE, 0.0) / (1 - FREE_SHARE)


def _act_scales(graph: fx.GraphModule) -> list[Tensor]:
    return [quantizer.log_scale for quantizer in called_modules(graph, ActQuantizer).values()]
