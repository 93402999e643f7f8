"""The fingerprint depends on every bit of the weights and on nothing else."""

import hashlib
import struct

import pytest
import torch

from lrq_deploy.checkpoint.fingerprint import fingerprint

pytestmark = pytest.mark.unit


def test_order_and_memory_layout_do_not_matter() -> None:
    a, b = torch.arange(12.0).reshape(3, 4), torch.tensor(3)
    first = fingerprint({"a": a, "b": b})
    assert first == fingerprint({"b": b, "a": a.t().contiguous().t()})
    assert len(first) == 64


@pytest.mark.parametrize(
    "changed",
    [
        {"a": torch.tensor([0.0, 1.0])},
        {"b": torch.tensor([-0.0, 1.0])},
        {"a": torch.tensor([-0.0, 1.0]), "b": torch.ones(1)},
        {"a": torch.tensor([[-0.0, 1.0]])},
        {"a": torch.tensor([-0.0, 1.0]).half()},
        {"a": torch.tensor([-0.0, 1.0]).view(torch.int32)},
    ],
)
def test_any_change_shows(changed: dict[str, torch.Tensor]) -> None:
    assert fingerprint(changed) != fingerprint({"a": torch.tensor([-0.0, 1.0])})


def test_it_is_the_documented_digest() -> None:
    parts = b"1:n|torch.int64||" + struct.pack("<q", 5)
    parts += b"1:w|torch.float32|2|" + struct.pack("<2f", 1.0, 2.5)
    found = fingerprint({"w": torch.tensor([1.0, 2.5]), "n": torch.tensor(5)})
    assert found == hashlib.sha256(parts).hexdigest()
