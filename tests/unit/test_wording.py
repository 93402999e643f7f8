"""Words that depend on a number."""

import pytest

from lrq_deploy.wording import counted, size_text

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (2000, "2,000 images")]
)
def test_one_thing_is_no_plural(number: int, text: str) -> None:
    assert counted(number, "image") == text


def test_units() -> None:
    assert size_text(1536) == "1.5 KiB"
    assert size_text(3 * 2**20) == "3.00 MiB"
