"""Words that depend on a number."""

import pytest

from lrq_deploy.wording import size_text

pytestmark = pytest.mark.unit


def test_units() -> None:
    assert size_text(1536) == "1.5 KiB"
    assert size_text(3 * 2**20) == "3.00 MiB"
