"""Documents of another version are refused with what they state and what to do."""

import pytest

from lrq_deploy.errors import BundleError
from lrq_deploy.stored_schema import OUTDATED, check_schema

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("stated", [None, 3, "1", [1]])
def test_other_versions_are_refused(stated: object) -> None:
    check_schema("the graph", 2, (1, 2))
    with pytest.raises(BundleError, match="the graph must have schema_version 1 or 2") as refused:
        check_schema("the graph", stated, (1, 2))
    assert (refused.value.received, refused.value.remedy) == (repr(stated), OUTDATED)
