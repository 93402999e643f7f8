"""The teacher is asked once for each view of an image."""

import pytest
import torch
from support.small_networks import images
from torch import Tensor

from lrq_deploy.method.fitting import teacher_answers
from lrq_deploy.method.fitting.augmented_batches import VIEWS, AugmentedBatches
from lrq_deploy.method.fitting.teacher_answers import TeacherAnswers

pytestmark = pytest.mark.unit

POOL = images(8)


class Asked:
    """A teacher of 3 logits that counts the images that it sees."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, batch: Tensor) -> Tensor:
        self.images += len(batch)
        return torch.stack([batch.mean((1, 2, 3)), batch.amax((1, 2, 3)), batch[:, 0, 0, 0]], 1)


def test_answers_are_those_of_the_images_and_no_view_is_asked_for_twice() -> None:
    asked, truth = Asked(), Asked()
    batches = AugmentedBatches(POOL, 4, 0)
    answers = TeacherAnswers(asked, batches.views)
    for _ in range(3 * VIEWS * len(POOL) // 4):
        drawn = batches.draw()
        assert torch.equal(answers.of(drawn, drawn.images), truth(drawn.images))
    assert asked.images == VIEWS * len(POOL)


def test_answers_too_large_to_keep_are_asked_for_every_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = Asked()
    batches = AugmentedBatches(POOL, 4, 0)
    monkeypatch.setattr(teacher_answers, "MOST_BYTES", 3 * 4 * batches.views - 1)
    answers = TeacherAnswers(asked, batches.views)
    for _ in range(2 * VIEWS * len(POOL) // 4):
        drawn = batches.draw()
        answers.of(drawn, drawn.images)
    assert answers.known is None
    assert asked.images == 2 * VIEWS * len(POOL)
