"""Options that found no layer are named, and only those."""

import pytest
from support.small_networks import Mobile, Residual, placed
from torch import nn

from lrq_deploy.scheme import Scheme
from lrq_deploy.student.idle_options import idle_options

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("network", "scheme", "idle"),
    [
        (Residual(), Scheme(), []),
        (Residual(), Scheme(depthwise="float"), ["--depthwise float"]),
        (Residual(), Scheme(int4_linear=True), ["--int4-linear"]),
        (
            Residual(),
            Scheme(depthwise="float", int4_linear=True),
            ["--depthwise float", "--int4-linear"],
        ),
        (Mobile(), Scheme(depthwise="float"), []),
        (Mobile(8), Scheme(int4_linear=True), ["--int4-linear"]),
        (Mobile(32), Scheme(int4_linear=True), []),
    ],
)
def test_an_option_that_changes_no_layer_is_named(
    network: nn.Module, scheme: Scheme, idle: list[str]
) -> None:
    said = idle_options(placed(network, scheme), scheme)
    assert [sentence.partition(" changes no layer: ")[0] for sentence in said] == idle
