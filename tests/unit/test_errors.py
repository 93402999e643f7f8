"""Errors travel between processes with all that they carry."""

import pickle

import pytest
import torch

from lrq_deploy import errors
from lrq_deploy.errors import DivergenceError, LrqError
from lrq_deploy.export.engine.run import EngineUnavailableError
from lrq_deploy.export.parity.reference import UnknownOperatorError

pytestmark = pytest.mark.unit

KINDS = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", [*KINDS, EngineUnavailableError, UnknownOperatorError])
def test_an_error_comes_back_from_its_pickle(kind: type[LrqError]) -> None:
    error = kind("a rule", "a thing", "a remedy")
    there = pickle.loads(pickle.dumps(error))
    assert type(there) is kind
    assert vars(there) == vars(error)
    assert str(there) == str(error) == "a rule; got a thing; a remedy"


def test_divergence_takes_its_state_along() -> None:
    error = DivergenceError("a rule", "a thing", "a remedy", {"weight": torch.ones(2)})
    there = pickle.loads(pickle.dumps(error))
    assert torch.equal(there.state["weight"], torch.ones(2))
