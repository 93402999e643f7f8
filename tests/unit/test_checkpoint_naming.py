"""Where weights lie and what their names tell."""

import pytest

from lrq_deploy.checkpoint.naming import classes_of_shapes

pytestmark = pytest.mark.unit

Shape = tuple[int, ...]


def _shapes(**shapes: Shape) -> dict[str, Shape]:
    return {name.replace("__", "."): shape for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("shapes", "classes"),
    [
        (_shapes(conv__weight=(8, 3, 3, 3), fc__weight=(10, 8), fc__bias=(10,)), 10),
        (_shapes(classifier__1__weight=(12, 8, 1, 1), zz__weight=(9, 9)), 12),
        (_shapes(classifier__10__weight=(4, 8), classifier__9__weight=(8, 8)), 4),
        (_shapes(AuxLogits__fc__weight=(7, 8), stem__weight=(5, 5), fc__weight=(6, 8)), 6),
        (_shapes(layer4__1__se__fc2__weight=(64, 4), fc__weight=(11, 64)), 11),
        (_shapes(head__fc__weight=(13, 64), pre_logits__fc__weight=(64, 96)), 13),
        (_shapes(body__weight=(5, 5), last__weight=(6, 5)), 6),
        (_shapes(conv__weight=(8, 3, 3, 3)), None),
    ],
)
def test_class_count(shapes: dict[str, Shape], classes: int | None) -> None:
    assert classes_of_shapes(shapes) == classes
    if classes != 6:
        assert classes_of_shapes(dict(reversed(shapes.items()))) == classes
