"""Which method a network allows."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.small_networks import CENTRED, SHAPE, Residual, with_statistics
from torch import nn

from lrq_deploy.errors import OptionError
from lrq_deploy.graph.teach import make_teacher
from lrq_deploy.method.methods import METHODS
from lrq_deploy.method.suited import suited
from lrq_deploy.options import Method, MethodSwitches, QuantizeOptions
from lrq_deploy.teacher import Teacher

pytestmark = pytest.mark.unit

OPTIONS = QuantizeOptions(Path("m"), Path("o"))
NORMED = make_teacher(with_statistics(Residual()), SHAPE, CENTRED, "residual", "")
PLAIN = make_teacher(
    nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5)).eval(),
    SHAPE,
    CENTRED,
    "plain",
    "",
)


def unknown(teacher: Teacher) -> Teacher:
    return replace(teacher, preprocessing=replace(CENTRED, known=False))


def named(method: Method) -> QuantizeOptions:
    return replace(OPTIONS, method_name=method, method=METHODS[method].switches)


@pytest.mark.parametrize("method", METHODS)
def test_with_batch_norm_every_method_stays(method: Method) -> None:
    assert suited(named(method), NORMED) == named(method)


def test_without_batch_norm_the_default_paints_and_keeps_its_switches() -> None:
    given = replace(OPTIONS, method=MethodSwitches(margin="b", decoupled=False))
    found = suited(given, PLAIN)
    assert found.method_name == "leaves"
    assert found.method == replace(given.method, image_source="leaves")
    assert suited(named("leaves"), PLAIN) == named("leaves")


def test_a_method_of_painted_images_needs_no_batch_norm_whatever_its_name() -> None:
    painted = MethodSwitches(margin="off", image_source="leaves")
    given = replace(OPTIONS, method_name="lrq-blocks", method=painted)
    assert suited(given, PLAIN) == given


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("lrq", "leaves")])
def test_without_batch_norm_other_methods_are_refused(method: Method) -> None:
    with pytest.raises(OptionError, match=f"--method {method} makes") as caught:
        suited(named(method), PLAIN)
    assert "--method leaves" in caught.value.remedy


@pytest.mark.parametrize(
    "switches", [MethodSwitches(long_range=False), MethodSwitches(margin="a1")]
)
def test_parts_of_a_generator_are_refused_where_there_is_none(switches: MethodSwitches) -> None:
    with pytest.raises(OptionError, match="the method leaves, which trains no generator"):
        suited(replace(OPTIONS, method=switches), PLAIN)
    labels = MethodSwitches(margin="off", decoupled=False)
    assert suited(replace(OPTIONS, method=labels, task="multilabel"), PLAIN).method.margin == "off"


def test_a_margin_needs_a_last_linear_layer() -> None:
    layers = [nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    pooled = make_teacher(nn.Sequential(*layers).eval(), SHAPE, CENTRED, "pooled", "")
    for margin in ("a1", "b"):
        given = replace(OPTIONS, method=MethodSwitches(margin=margin))
        assert suited(given, NORMED) == given
        with pytest.raises(OptionError, match=f"--margin {margin} needs class centres"):
            suited(given, pooled)
    for quiet in (OPTIONS, named("lrq-paper"), named("gdfq")):
        assert suited(quiet, pooled) == quiet


def test_painted_images_need_the_range_of_the_pixels() -> None:
    for options, teacher in ((OPTIONS, PLAIN), (named("leaves"), NORMED)):
        with pytest.raises(OptionError, match="range of the pixels"):
            suited(options, unknown(teacher))
    assert suited(OPTIONS, unknown(NORMED)) == OPTIONS
