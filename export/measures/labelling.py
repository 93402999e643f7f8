"""Whether the class folders of a user's images tell what the network's answers should be."""

from dataclasses import dataclass

from torch import Tensor

from lrq_deploy.export.measures.intervals import share_interval

__all__ = ["AtChance", "Labelling", "labelling"]


@dataclass(frozen=True)
class AtChance:
    """A teacher that is not shown to be right more often than one that guesses.

    Attributes:
        accuracy: share of the labelled images on which it is right, 0..1.
        chance: that of a guess, 0..1.
        count: labelled images.
    """

    accuracy: float
    chance: float
    count: int

    def describe(self) -> str:
        """The figures, as a clause."""
        return (
            f"the float network is right on {100 * self.accuracy:.1f} % of {self.count:,} "
            f"labelled images, and chance gives {100 * self.chance:.1f} %"
        )


@dataclass(frozen=True)
class Labelling:
    """Labels as far as the teacher bears them out.

    Attributes:
        labels: class of each image, ``[N]``; None where its answers do not follow them.
        remark: what the user should know of that, or empty.
        at_chance: why labels are left out; None where they are not.
    """

    labels: Tensor | None
    remark: str = ""
    at_chance: AtChance | None = None


def labelling(
    answers: Tensor,
    labels: Tensor,
    numbers: Tensor | None,
    num_classes: int,
    names_known: bool = False,
) -> Labelling:
    """Take the order of the class folders in which the teacher is right, if there is one.

    A student loses nothing on wrong labels, for its teacher is right on none of them either: where
    that is right no more often than by chance, a drop would pass any student.

    Args:
        answers: of the teacher, ``[N]``.
        labels: by the class folders sorted as text, as most training scripts read them, ``[N]``.
        numbers: of these folders, ``[K]``, where that is another order.
        num_classes: K.
        names_known: whether the model file states its classes, so that no order of folders counts.
    """
    count, chance = len(labels), 1 / num_classes
    orders = [labels] if numbers is None else [labels, numbers[labels]]
    right = [int((answers == order).sum()) / count for order in orders]
    share = max(right)
    if share_interval(share, count)[0] <= chance:
        found = AtChance(share, chance, count)
        folders = "are named as the classes" + ("" if names_known else " or sort in their order")
        return Labelling(
            None,
            f"{found.describe()}: labels are left out; check --mean and --std, the weights, and "
            f"that the class folders {folders}",
            found,
        )
    if share == right[0]:
        return Labelling(labels)
    return Labelling(
        orders[-1],
        f"class folders are taken by number: the float network is right on {100 * share:.1f} % "
        f"then, and on {100 * right[0]:.1f} % where they are sorted as text",
    )
