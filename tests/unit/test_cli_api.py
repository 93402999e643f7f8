"""``lrq_deploy.quantize``: what is no value of its option is refused like any other."""

import inspect
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrq_deploy.cli import api
from lrq_deploy.cli.api import quantize
from lrq_deploy.cli.flags.quantize_flags import QuantizeFlags
from lrq_deploy.cli.job import pipeline
from lrq_deploy.errors import CheckpointError, OptionError

pytestmark = pytest.mark.unit


def test_it_takes_every_option_of_the_command_and_passes_it_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passed: set[str] = set()

    def record(**flags: object) -> None:
        passed.update(flags)
        raise OptionError("a", "b", "c")

    monkeypatch.setattr(api, "QuantizeFlags", record)
    with pytest.raises(OptionError, match="a"):
        quantize("net.pt")
    # A script sees the verdict in the manifest.
    assert passed == {*QuantizeFlags.__dataclass_fields__} - {"require_ship"}
    assert {*inspect.signature(quantize).parameters} == passed | {"model", "name", "progress"}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("bits", "9", "input should be a valid integer, or input should be 'mixed'"),
        ("seed", "a", "input should be a valid integer"),
        ("seed", np.int64(3), "input should be a valid integer"),
        ("out", 5, "input should be a valid string, or input should be an instance of path"),
        ("recipe", "slow", "input should be 'fast', 'balanced' or 'best'"),
        ("force", "yes", "input should be a valid boolean"),
        ("checkpoint_every", "x", "input should be a valid number"),
        ("progress", 5, "input should be callable"),
    ],
)
def test_a_value_of_another_type_is_refused(name: str, value: Any, expected: str) -> None:
    with pytest.raises(OptionError) as caught:
        quantize("missing.pt", **{name: value})
    assert caught.value.rule == f"{name}: {expected}"
    assert caught.value.received == repr(tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(
    ("name", "value", "rule", "remedy"),
    [
        *(
            (
                "input_shape",
                value,
                "input_shape must be three whole numbers (C, H, W) without the batch",
                "pass for instance input_shape=(3, 224, 224)",
            )
            for value in ("3,32,32", [3, 32], 20, (1, 3, 20, 20))
        ),
        (
            "mean",
            0.5,
            "mean must be one number per channel",
            "pass for instance mean=(0.485, 0.456, 0.406)",
        ),
    ],
)
def test_a_remedy_of_a_tuple_can_be_followed(name: str, value: Any, rule: str, remedy: str) -> None:
    with pytest.raises(OptionError) as caught:
        quantize("missing.pt", **{name: value})
    assert (caught.value.rule, caught.value.remedy) == (rule, remedy)


def test_none_is_what_is_not_given(tmp_path: Path) -> None:
    # The next complaint is of the file.
    with pytest.raises(CheckpointError, match="no file at"):
        quantize("missing.pt", 4, arch=None, recipe=None, out=tmp_path / "out")  # type: ignore[arg-type]


def test_lists_pass_for_tuples() -> None:
    with pytest.raises(CheckpointError, match="no file at"):
        quantize("missing.pt", 4, [3, 32, 32], mean=[0.5] * 3, std=[0.5] * 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("mean", [float("nan"), float("inf")])
def test_a_mean_that_is_no_number_is_refused(mean: float) -> None:
    with pytest.raises(OptionError, match="must be finite"):
        quantize("missing.pt", mean=(mean,), std=(1.0,))


def test_threads_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running, most = 0, 0

    def slow(*_: object, **__: object) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.05)
        running -= 1
        raise OptionError("a rule", "a thing", "a remedy")

    def start(number: int) -> None:
        with pytest.raises(OptionError, match="a rule"):
            quantize("missing.pt", out=tmp_path / str(number))

    monkeypatch.setattr(pipeline, "quantize", slow)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(start, range(3)))
    assert most == 1
