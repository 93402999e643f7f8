"""Signatures: what must and must not make a difference."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrq_deploy.inspection.signature import Fit, entry_of, fit_of, name_templates, names_hash

pytestmark = pytest.mark.unit

SHAPES = {
    "conv.weight": (10, 3, 3, 3),
    "layers.12.bn.running_var": (10,),
    "fc.weight": (10, 8),
    "fc.bias": (10,),
}
COUNTED = {**SHAPES, "layers.12.bn.num_batches_tracked": ()}


def test_order_and_counters_do_not_matter() -> None:
    backwards = dict(reversed(COUNTED.items()))
    assert names_hash(backwards) == names_hash(SHAPES)
    assert entry_of("n", backwards, 10, ["fc"]).shapes == entry_of("n", SHAPES, 10, ["fc"]).shapes
    assert name_templates(COUNTED) >= {"layers.#.bn.running_var"}


@given(classes=st.integers(1, 5000))
def test_only_the_classifier_may_have_another_number_of_rows(classes: int) -> None:
    entry = entry_of("n", SHAPES, 10, ["fc"])
    assert entry.class_tensors == ("fc.weight", "fc.bias")
    other = {**SHAPES, "fc.weight": (classes, 8), "fc.bias": (classes,)}
    assert fit_of(other, entry) == Fit(True, classes)
    assert not fit_of({**SHAPES, "fc.weight": (classes + 10, 8)}, entry).shapes_fit


@given(name=st.sampled_from(sorted(SHAPES)), position=st.integers(0, 3), change=st.integers(1, 100))
def test_any_other_size_makes_a_difference(name: str, position: int, change: int) -> None:
    entry = entry_of("n", SHAPES, 0, [])
    sizes = list(SHAPES[name])
    sizes[position % len(sizes)] += change
    assert not fit_of({**SHAPES, name: tuple(sizes)}, entry).shapes_fit
    assert fit_of(SHAPES, entry) == Fit(True, None)
