"""Classes and sets of labels: how they are drawn, what they cost, when they are hit."""

import math

import pytest
import torch
import torch.nn.functional as F

from lrq_deploy.method.images.diversity import diversity_loss, paired_labels
from lrq_deploy.method.images.wanted import USUAL_LABELS, draw_wanted, hit_rate, wanted_loss

pytestmark = pytest.mark.unit


def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_classes_are_indices() -> None:
    wanted = draw_wanted(200, 7, "multiclass", random())
    assert wanted.dtype == torch.int64
    assert wanted.unique().tolist() == list(range(7))


@pytest.mark.parametrize(("labels", "chance"), [(1, 0.5), (4, 0.5), (40, USUAL_LABELS / 40)])
def test_sets_of_labels_are_sparse_where_there_are_many(labels: int, chance: float) -> None:
    wanted = draw_wanted(20_000, labels, "multilabel", random())
    assert wanted.shape == (20_000, labels)
    assert set(wanted.unique().tolist()) == {0.0, 1.0}
    deviation = math.sqrt(chance * (1 - chance) / 20_000)
    assert (wanted.mean(0) - chance).abs().max() < 5 * deviation


def test_both_kinds_are_paired() -> None:
    for task, shape in (("multiclass", (6,)), ("multilabel", (6, 9))):
        labels = paired_labels(6, 9, random(), task)  # type: ignore[arg-type]
        assert labels.shape == shape
        assert torch.equal(labels[:3], labels[3:])


def test_the_loss_is_that_of_the_kind() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
    classes = torch.tensor([0, 1])
    assert wanted_loss(logits, classes) == F.cross_entropy(logits, classes)
    sets = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    p = logits.sigmoid()
    expected = -(sets * p.log() + (1 - sets) * (1 - p).log()).mean()
    torch.testing.assert_close(wanted_loss(logits, sets), expected)


def test_hits_are_counted_per_class_or_per_label() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
    assert hit_rate(logits, torch.tensor([0, 2])) == 0.5
    sets = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    assert hit_rate(logits, sets) == pytest.approx(4 / 6)


def test_images_of_different_sets_must_differ() -> None:
    sets = torch.tensor([[1.0, 0.0], [1.0, 1.0]]).repeat(2, 1)
    same = torch.tensor([[0.0], [1.0]]).repeat(2, 1)[:, :, None, None]
    assert diversity_loss([same], sets) == 1.0
    assert diversity_loss([same], torch.ones(4, 2)) == 0.0
