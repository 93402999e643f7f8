"""Labels count where the teacher's answers bear them out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lrq_deploy.export.measures.labelling import AtChance, labelling

pytestmark = pytest.mark.unit

SORTED = sorted(str(number) for number in range(12))
NUMBERS = torch.tensor([int(name) for name in SORTED])


def test_folders_in_the_order_of_the_logits_are_taken_as_they_are() -> None:
    labels = torch.arange(12).repeat(5)
    answers = labels.clone()
    answers[:12] = 0
    found = labelling(answers, labels, NUMBERS, 12)
    assert found.labels is not None
    assert torch.equal(found.labels, labels)
    assert (found.remark, found.at_chance) == ("", None)


def test_numbered_folders_are_taken_by_number_where_the_teacher_is_right_then() -> None:
    places = torch.arange(12).repeat(5)
    found = labelling(NUMBERS[places], places, NUMBERS, 12)
    assert found.labels is not None
    assert torch.equal(found.labels, NUMBERS[places])
    # 0 and 1 alone have the same place among texts.
    assert found.remark == (
        "class folders are taken by number: the float network is right on 100.0 % then, and on "
        "16.7 % where they are sorted as text"
    )


@pytest.mark.parametrize(
    ("answers", "count", "classes"),
    [([1, 0], 50, 2), ([0, 0], 50, 2), ([0, 1], 1, 2)],
    ids=["turned", "one answer", "two images"],
)
def test_labels_that_chance_meets_as_often_are_left_out(
    answers: list[int], count: int, classes: int
) -> None:
    given_answers = torch.tensor(answers).repeat(count)
    found = labelling(given_answers, torch.tensor([0, 1]).repeat(count), None, classes)
    assert found.labels is None
    assert "chance gives 50.0 %: labels are left out; check --mean" in found.remark
    right = sum(answer == place for place, answer in enumerate(answers)) / 2
    assert found.at_chance == AtChance(right, 0.5, 2 * count)


@pytest.mark.parametrize("names_known", [False, True])
def test_an_order_of_folders_is_advised_where_no_names_are_known(names_known: bool) -> None:
    answers, labels = torch.tensor([0, 0]).repeat(50), torch.tensor([0, 1]).repeat(50)
    found = labelling(answers, labels, None, 2, names_known)
    assert ("or sort in their order" in found.remark) != names_known
    assert "are named as the classes" in found.remark


@given(st.integers(2, 1000), st.integers(10, 60), st.integers(0, 2**31))
def test_a_teacher_that_is_mostly_right_keeps_its_labels(
    classes: int, count: int, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=random)
    answers = labels.clone()
    answers[: count // 10] = 0
    found = labelling(answers, labels, None, classes)
    assert found.labels is labels
    assert found.remark == ""
