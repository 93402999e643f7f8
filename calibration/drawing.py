"""Draw the pool from a trained generator, and refine what was drawn."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lrq_deploy.calibration.image_pool import ImagePool
from lrq_deploy.errors import StateFileError
from lrq_deploy.graph.statistics import TappedTeacher
from lrq_deploy.method.images.dead_leaves import DeadLeaves
from lrq_deploy.method.images.generator import LongRangeGenerator
from lrq_deploy.method.images.noise import NoiseImages
from lrq_deploy.method.images.refinement import Refinement
from lrq_deploy.method.images.wanted import draw_wanted
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.method.steps.back_off import Moving
from lrq_deploy.method.steps.context import StageContext
from lrq_deploy.method.steps.pieces import Pieces

__all__ = ["Drawn", "ImageDrawing"]

Drawn = LongRangeGenerator | NoiseImages | DeadLeaves
"""What images are drawn from."""


class ImageDrawing:
    """The images of a run, a batch per rank at a time; a step refines each of them once.

    The generator stays in training mode: its BatchNorms then use the statistics of the batch,
    as while it was trained. See ``ResumableStage``; the generator is not part of the state,
    because its own stage ends before.

    Args:
        generator: trained, or what stands where one does; on the device.
        teacher: on the device.
        settings: how images are refined.
        context: the seed is that of classes and latents; each of the ranks ends with all images.
        pool: receives the images.
        places: where in the pool, ``[N]``; so many are drawn.
    """

    name = "images"

    def __init__(
        self,
        generator: Drawn,
        teacher: TappedTeacher,
        settings: RecipeSettings,
        context: StageContext,
        pool: ImagePool,
        places: Tensor,
    ) -> None:
        size = settings.batch_size * context.ranks.count
        self._steps_per_batch = max(settings.refinement_steps, 1)
        rounds = -(-len(places) // size)
        self.watched = generator
        self.steps = rounds * self._steps_per_batch
        self.steps_done = 0
        self.images_per_step = size / self._steps_per_batch
        self._teacher = teacher
        self._settings = settings
        self.device = context.device
        self.pieces = Pieces(settings.batch_size)
        self._random = torch.Generator().manual_seed(context.seed)
        self._ranks = context.ranks
        self._round_size = size
        self._pool = pool
        self._places = places
        self._labels: list[Tensor] = []
        self._latent: Tensor | None = None
        self._batch: Refinement | None = None
        self._loss: Tensor | None = None

    def prepare(self) -> None:
        """Draw a batch where none is at hand."""
        self._at_hand()

    def moving(self) -> Moving:
        """The pixels at hand and their optimiser."""
        return self._at_hand().moving()

    def step(self) -> None:
        """Refine the batch at hand once; before, draw one where there is none."""
        batch = self._at_hand()
        self._loss = batch.step() if self._settings.refinement_steps else None
        if self._ends_batch():
            images = self._ranks.collected(batch.pixels.detach()).cpu()
            places = self._places[self._finished(self.steps_done) :][: len(images)]
            self._pool.put(places, images[: len(places)])

    def commit(self) -> None:
        """Count the step, of the batch too."""
        self._at_hand().steps_done += 1
        if self._ends_batch():
            self._batch = None
        self.steps_done += 1

    def _ends_batch(self) -> bool:
        return (self.steps_done + 1) % self._steps_per_batch == 0

    def _finished(self, steps: int) -> int:
        """Images that are done after so many steps."""
        return steps // self._steps_per_batch * self._round_size

    def _at_hand(self) -> Refinement:
        if self._batch is None:
            # Drawn once, also where the device then has no room to make images of it.
            self._latent = self._new_latent() if self._latent is None else self._latent
            target = self._wanted_here().to(self.device, non_blocking=True)
            with torch.no_grad():
                latent = self._latent.to(self.device, non_blocking=True)
                drawn = self.watched(latent, self.watched.embed(target))
            self._batch = self._refinement(drawn, target)
            self._latent = None
        return self._batch

    def _new_latent(self) -> Tensor:
        """This rank's batch; all ranks draw for all of them alike, so that their states agree."""
        generator, size = self.watched, self._settings.batch_size
        self._labels, latents = [], []
        for _ in range(self._ranks.count):
            wanted = draw_wanted(size, generator.num_classes, generator.task, self._random)
            self._labels.append(wanted)
            latents.append(torch.randn(size, *generator.latent_shape, generator=self._random))
        return latents[self._ranks.rank]

    def _wanted_here(self) -> Tensor:
        """What the batch at hand of this rank was made for."""
        return self._labels[self._ranks.rank]

    def _refinement(self, images: Tensor, target: Tensor) -> Refinement:
        bounds = self.watched.bounds()
        return Refinement(images, target, self._teacher, self._settings, bounds, self.pieces)

    def terms(self) -> dict[str, float]:
        """Loss of the last refinement step."""
        return {} if self._loss is None else {"loss": float(self._loss)}

    def state_dict(self) -> dict[str, Any]:
        """The images so far, those at hand with their labels, and the random numbers."""
        return {
            "steps_done": self.steps_done,
            "images": self._pool.state(self._places[: self._finished(self.steps_done)]),
            "labels": self._labels,
            "batches": self._ranks.gathered(
                None if self._batch is None else self._batch.state_dict()
            ),
            "random": self._random.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``, with the same generator.

        Raises:
            StateFileError: the images of the state are not in the pool's file, on some rank.
        """
        images, places = state["images"], self._places[: self._finished(state["steps_done"])]
        gone = isinstance(images, str) and self._pool.digest(places) != images
        if self._ranks.largest(gone)[0]:
            raise StateFileError(
                "the file of the images must hold those that were finished",
                "a file of images that is damaged",
                "draw them anew",
            )
        if isinstance(images, Tensor):
            self._pool.put(places, images)
        self.steps_done = state["steps_done"]
        self._labels = list(state["labels"])
        self._random.set_state(state["random"])
        self._batch = None
        mine = state["batches"][self._ranks.rank]
        if mine is not None:
            self._batch = self._refinement(mine["pixels"].to(self.device), self._wanted_here())
            self._batch.load_state_dict(mine)
