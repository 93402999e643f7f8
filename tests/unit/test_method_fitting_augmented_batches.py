"""Batches of the pool: every image in turn, in a few views, the same after a stop."""

import pytest
import torch
from support.small_networks import images
from torch import Tensor

from lrq_deploy.method.fitting.augmented_batches import VIEWS, AugmentedBatches, DrawnBatch

pytestmark = pytest.mark.unit

POOL = images(12)


def drawn(count: int, size: int = 4, seed: int = 0) -> list[DrawnBatch]:
    batches = AugmentedBatches(POOL, size, seed)
    return [batches.draw() for _ in range(count)]


def test_every_image_is_seen_before_any_comes_twice() -> None:
    for start in range(0, 30, 3):
        rows = torch.cat([batch.rows for batch in drawn(start + 3)[start:]])
        assert sorted((rows % len(POOL)).tolist()) == list(range(len(POOL)))


def test_an_image_has_each_of_its_views_once_before_any_comes_again() -> None:
    once = VIEWS * len(POOL) // 4
    batches = drawn(2 * once)
    for half in (batches[:once], batches[once:]):
        rows = torch.cat([batch.rows for batch in half])
        assert sorted(rows.tolist()) == list(range(VIEWS * len(POOL)))
    assert [batch.new for batch in batches] == [True] * once + [False] * once


def test_a_row_is_an_image_and_a_view_of_it() -> None:
    shown: dict[int, Tensor] = {}
    for batch in drawn(60):
        for row, image in zip(batch.rows.tolist(), batch.images, strict=True):
            assert torch.equal(shown.setdefault(row, image), image)
    assert len(shown) == VIEWS * len(POOL)
    assert len({tuple(image.flatten().tolist()) for image in shown.values()}) > 6 * len(POOL)


def test_images_come_in_different_views_at_a_time() -> None:
    for batch in drawn(30, size=len(POOL)):
        assert len(set((batch.rows // len(POOL)).tolist())) == VIEWS


def test_half_of_the_views_are_mirrored() -> None:
    ramp = torch.arange(16.0).expand(8, 3, 16, 16)
    batches = AugmentedBatches(ramp, 8, 0)
    middle = [batches.draw().images[:, 0, 8, 7:9] for _ in range(VIEWS)]
    rising = torch.cat(middle).diff(dim=1) > 0
    assert int(rising.sum()) == 8 * VIEWS // 2


def test_images_of_one_view_move_each_in_its_own_way() -> None:
    alike = images(1).expand(64, -1, -1, -1)
    batches = AugmentedBatches(alike, 64, 0)
    for _ in range(VIEWS):
        shown = batches.draw().images
        assert len({tuple(image.flatten().tolist()) for image in shown}) > 4


def test_a_view_moves_by_up_to_an_eighth_and_shows_nothing_but_the_image() -> None:
    """Each pixel says where it is from: 24 rows and 16 columns."""
    places = 1000.0 + 100 * torch.arange(24)[:, None] + torch.arange(16)
    batches = AugmentedBatches(places.expand(64, 1, -1, -1), 64, 0)
    rows, columns = set[int](), set[int]()
    for _ in range(VIEWS):
        shown = batches.draw().images
        assert bool(torch.isin(shown, places).all())
        middle = shown[:, 0, 12, 8].long() - 1000
        rows |= set((middle // 100).tolist())
        columns |= set((middle % 100).tolist())
    assert rows == set(range(12 - 3, 12 + 4))
    # Mirrored, the middle is one to the left.
    assert columns == set(range(7 - 2, 8 + 3))


def test_views_are_blended_with_overlays_each_in_its_own_way() -> None:
    overlays = torch.stack([torch.full(POOL.shape[1:], value) for value in (10.0, 20.0)])
    blended = AugmentedBatches(POOL, 4, 0, overlays=overlays)
    every = VIEWS * len(POOL) // 4
    plain = {row: x for b in drawn(every) for row, x in zip(b.rows.tolist(), b.images, strict=True)}
    remains: dict[int, float] = {}
    chosen: set[float] = set()
    for _ in range(2 * every):
        batch = blended.draw()
        for row, image in zip(batch.rows.tolist(), batch.images, strict=True):
            # Overlays are flat, so that what is left of the contrast is the share of the view.
            share = float(image.std() / plain[row].std())
            assert remains.setdefault(row, share) == pytest.approx(share)
            chosen.add(round(float((image - share * plain[row]).mean() / (1 - share)), 1))
    shares = torch.tensor(list(remains.values()))
    assert len(shares) == VIEWS * len(POOL)
    assert 0.4 < float(shares.mean()) < 0.6
    assert float(shares.min()) < 0.1
    assert float(shares.max()) > 0.9
    assert chosen == {10.0, 20.0}


def test_no_overlays_leave_the_views_as_they_are() -> None:
    for none in (None, POOL[:0]):
        batches = AugmentedBatches(POOL, 4, 0, overlays=none)
        assert torch.equal(batches.draw().images, drawn(1)[0].images)


def test_a_batch_that_begins_among_new_views_is_new() -> None:
    batches = drawn(40, size=5)
    new = [batch.new for batch in batches]
    assert new == [5 * number < VIEWS * len(POOL) for number in range(40)]


def test_a_seed_decides_the_order_and_the_views() -> None:
    first, again, other = (torch.cat([b.images for b in drawn(3, seed=s)]) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("overlays", [None, images(3)], ids=["plain", "blended"])
@pytest.mark.parametrize("stop", [0, 1, 5, 24, 31])
def test_the_rest_is_the_same_after_a_stop(stop: int, overlays: Tensor | None) -> None:
    whole = AugmentedBatches(POOL, 5, 3, overlays=overlays)
    for _ in range(stop):
        whole.draw()
    state = whole.state_dict()
    rest = AugmentedBatches(POOL, 5, 3, overlays=overlays)
    rest.load_state_dict(state)
    for _ in range(6):
        a, b = whole.draw(), rest.draw()
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.rows, b.rows)
        assert a.new == b.new
