"""A process alone changes nothing; what several do is in ``integration/test_shared_run.py``."""

import pickle
import socket

import pytest
import torch

from lrq_deploy.errors import LrqError, OptionError, OutputError, RankLostError
from lrq_deploy.launch import Launch
from lrq_deploy.ranks import ALONE, Ranks, joined_ranks
from lrq_deploy.resume.stop_request import RunStopped

pytestmark = pytest.mark.unit


def test_alone_everything_stays_as_it_is() -> None:
    tensor = torch.rand(3, requires_grad=True)
    layer = torch.nn.Linear(2, 1)
    layer(torch.ones(1, 2)).sum().backward()
    assert layer.weight.grad is not None
    before = layer.weight.grad.clone()
    ALONE.average_gradients(torch.optim.SGD(layer.parameters()))
    ALONE.align(layer)
    assert torch.equal(layer.weight.grad, before)
    assert ALONE.pooled(tensor) is tensor
    assert ALONE.collected(tensor) is tensor
    assert ALONE.part(7) == slice(0, 7)
    assert ALONE.mean({"loss": 0.1}) == {"loss": 0.1}
    assert ALONE.on_first(lambda: "done") == ALONE.together(lambda: "done") == "done"
    ALONE.check_batch(3)


def test_a_launch_of_one_process_connects_nothing() -> None:
    with joined_ranks(Launch(), torch.device("cpu")) as ranks:
        assert ranks is ALONE
    assert not torch.distributed.is_initialized()


def test_processes_that_do_not_find_each_other_are_told_where(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for name, value in {"RANK": 0, "WORLD_SIZE": 2, "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        with (
            pytest.raises(RankLostError, match=f"127.0.0.1:{port}; got .*address already in use"),
            joined_ranks(Launch(0, 2), torch.device("cpu")),
        ):
            pass


@pytest.mark.parametrize(("batch", "count"), [(32, 16), (128, 3), (12, 6), (10, 5)])
def test_a_batch_that_does_not_divide_is_refused(batch: int, count: int) -> None:
    with pytest.raises(OptionError, match=f"got {count} processes; pass --nproc-per-node with"):
        Ranks(0, count).check_batch(batch)


def test_the_remedy_of_a_refused_batch_is_accepted() -> None:
    with pytest.raises(OptionError) as caught:
        Ranks(0, 7).check_batch(32)
    assert caught.value.remedy.endswith("one of 1, 2, 4, 8")
    for count in (1, 2, 4, 8):
        Ranks(0, count).check_batch(32)


@pytest.mark.parametrize("error", [OutputError("a", "b", "c"), RunStopped(15)])
def test_what_ends_all_ranks_travels_between_them(error: LrqError | RunStopped) -> None:
    there = pickle.loads(pickle.dumps(error))
    assert type(there) is type(error)
    assert vars(there) == vars(error)
    assert str(there) == str(error)
