"""Widths in words."""

import pytest

from lrq_deploy.errors import OptionError
from lrq_deploy.scheme import LayerBits, Scheme

pytestmark = pytest.mark.unit


def test_what_differs_from_the_default_is_named() -> None:
    mixed = (LayerBits("layers.a", 8), LayerBits("layers.b", 4), LayerBits("layers.c", 4))
    assert Scheme(4, 4).describe() == "W4A4, edge 8"
    assert Scheme(4, 4, act_symmetry="asymmetric").describe() == "W4A4, edge 8, asymmetric"
    assert Scheme(4, 3, None, residual_bits=None).describe() == "W4A3, edge same, residual same"
    named = Scheme(4, 8, residual_bits=6, layer_bits=mixed).describe()
    assert named == "mixed A8, edge 8 (2 layers W4, 1 layers W8), residual 6"


def test_a_layer_has_one_width_of_its_own() -> None:
    twice = (LayerBits("layers.a", 8), LayerBits("layers.a", 4))
    with pytest.raises(OptionError, match="each layer once"):
        Scheme(layer_bits=twice)
