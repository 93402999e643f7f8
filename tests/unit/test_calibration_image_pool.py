"""Images in a file: its room is taken before it is mapped, and a full disk is told."""

import os
from pathlib import Path

import pytest
import torch
from support.small_disk import largest_file

from lrq_deploy.calibration.image_pool import ImagePool, pool_bytes
from lrq_deploy.errors import WriteError

pytestmark = [
    pytest.mark.unit,
    pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no such call on this system"),
]

SHAPE = (3, 16, 12)


def test_the_file_has_its_room_before_an_image_is_put(tmp_path: Path) -> None:
    path = tmp_path / "new" / "images.pool"
    ImagePool(20, SHAPE, path)
    assert path.stat().st_blocks * 512 >= path.stat().st_size == pool_bytes(20, SHAPE)


@pytest.mark.parametrize("there", [b"", b"kept"])
def test_a_full_disk_is_told_and_leaves_what_was_there(tmp_path: Path, there: bytes) -> None:
    path = tmp_path / "images.pool"
    if there:
        path.write_bytes(there)
    with largest_file(4096), pytest.raises(WriteError, match="--max-memory") as caught:
        ImagePool(20, SHAPE, path)
    assert str(path) in caught.value.received
    assert path.exists() == bool(there)
    if there:
        assert path.read_bytes()[:4] == there


def test_what_the_file_holds_is_kept(tmp_path: Path) -> None:
    images = torch.rand(20, *SHAPE)
    ImagePool(20, SHAPE, tmp_path / "images.pool").put(torch.arange(20), images)
    assert torch.equal(ImagePool(20, SHAPE, tmp_path / "images.pool").images, images)


def test_the_state_of_a_file_is_the_digest_of_what_is_finished(tmp_path: Path) -> None:
    path, places = tmp_path / "images.pool", torch.randperm(200)
    pool = ImagePool(200, SHAPE, path)
    for start, end in ((0, 0), (0, 70), (70, 70), (70, 200)):
        pool.put(places[start:end], torch.rand(end - start, *SHAPE))
        assert pool.state(places[:end]) == ImagePool(200, SHAPE, path).digest(places[:end])
    before = pool.digest(places)
    pool.images[places[199], 0, 0, 0] += 1
    assert pool.digest(places) != before
