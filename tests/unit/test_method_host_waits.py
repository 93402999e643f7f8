"""Between two checks no step asks for a value of a tensor: a GPU would be waited for."""

from typing import Any

import pytest
import torch
from support.stages import STAGES, draw_unwatched, unwatched
from torch.utils._python_dispatch import TorchDispatchMode

from lrq_deploy.method.images import diversity

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")
aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense.default,  # Tensor.item, bool, int and float of a tensor
    aten.is_nonzero.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
}


class NoWaiting(TorchDispatchMode):
    """Refuses operators whose result a program must wait for."""

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        by_mask = operator is aten.index.Tensor and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if operator in WAITING or by_mask:
            raise AssertionError(f"{operator} waits for the device")
        return operator(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def _host_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stage asks of tensors that are on the CPU wherever it trains."""
    draw_unwatched(monkeypatch)
    unwatched(monkeypatch, diversity, "_beside_another")
    # Counts its steps on the CPU, and lists many tensors to one kernel on CUDA.
    unwatched(monkeypatch, torch.optim.Adam, "step")


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("name", STAGES)
def test_no_step_waits(name: str, pieces: int) -> None:
    stage = STAGES[name](CPU)
    stage.pieces.count = pieces
    # Sizes of biases are read once, where a block begins.
    stage.prepare()
    with NoWaiting():  # type: ignore[no-untyped-call]
        stage.step()
        stage.commit()
    # Averaged steps of the student, and the last ones of a batch and of a block.
    while stage.steps_done < stage.steps:
        stage.prepare()
        with NoWaiting():  # type: ignore[no-untyped-call]
            stage.step()
            stage.commit()


@pytest.mark.parametrize("ask", [float, bool, torch.Tensor.item, torch.Tensor.nonzero])
def test_a_question_is_noticed(ask: Any) -> None:
    value = torch.ones(())
    with NoWaiting(), pytest.raises(AssertionError, match="waits"):  # type: ignore[no-untyped-call]
        ask(value)
