"""Drawing the pool: what is kept of it does not grow with the batches."""

import pytest
import torch
from support.stages import SETTINGS, images_stage, tensors_of

from lrq_deploy.calibration.drawing import ImageDrawing
from lrq_deploy.ranks import Ranks

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")


def step(stage: ImageDrawing) -> None:
    stage.prepare()
    stage.step()
    stage.commit()


@pytest.mark.parametrize("count", [1, 2])
def test_the_state_has_the_labels_of_the_batch_at_hand_alone(count: int) -> None:
    stage = images_stage(CPU, ranks=Ranks(0, count))
    assert isinstance(stage, ImageDrawing)
    for _ in range(3):
        stage._batch = None
        stage.prepare()
        state = stage.state_dict()
        assert len(state["labels"]) == count
        assert torch.equal(state["batches"][0]["labels"], state["labels"][0])


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_continued_drawing_comes_to_the_same_images(done: int) -> None:
    whole, begun, continued = (images_stage(CPU) for _ in range(3))
    assert isinstance(whole, ImageDrawing)
    assert isinstance(begun, ImageDrawing)
    assert isinstance(continued, ImageDrawing)
    assert whole.steps == 2 * SETTINGS.refinement_steps == 4
    for _ in range(whole.steps):
        step(whole)
    for _ in range(done):
        step(begun)
    continued.load_state_dict(begun.state_dict())
    for _ in range(whole.steps - done):
        step(continued)
    states = [tensors_of(stage.state_dict()) for stage in (whole, continued)]
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_refines_towards_the_labels_that_it_drew_for_itself(rank: int) -> None:
    stage = images_stage(CPU, ranks=Ranks(rank, 2))
    assert isinstance(stage, ImageDrawing)
    stage.prepare()
    state = stage.state_dict()
    first, second = state["labels"]
    assert not torch.equal(first, second)
    assert torch.equal(state["batches"][0]["labels"], (first, second)[rank])


def test_ranks_draw_for_all_and_each_takes_its_own() -> None:
    stages = [images_stage(CPU, ranks=Ranks(rank, 2)) for rank in (0, 1)]
    assert all(isinstance(stage, ImageDrawing) for stage in stages)
    first, second = (stage._new_latent() for stage in stages)  # type: ignore[attr-defined]
    assert not torch.equal(first, second)
    states = [stage.state_dict()["random"] for stage in stages]
    assert torch.equal(*states)
