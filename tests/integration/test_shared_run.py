"""Runs that processes share: they hold the same, lose nothing by it, and survive one another."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support import shared_run
from support.resumed_run import contents

from lrq_deploy.cli.commands.demo_network import TrainedDigits
from lrq_deploy.launch import Launch
from lrq_deploy.method.fitting.augmented_batches import VIEWS
from lrq_deploy.method.recipe import recipe_settings

pytestmark = pytest.mark.integration

NOISE_POINTS = 2.0
"""Nine of the 450 digits; students of other seeds differ by as many."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def told(folder: Path, digits_teacher: TrainedDigits) -> list[Any]:
    """What each of two processes says."""
    digits = {"model": digits_teacher.model_file, "images": digits_teacher.image_folder}
    (folder / "digits.json").write_text(json.dumps({k: str(v) for k, v in digits.items()}))
    return shared_run.started("agreement", folder)


def test_ranks_agree(told: list[Any]) -> None:
    first, second = (answer["sums"] for answer in told)
    for found in (first, second):
        assert found["mean"] == {"a": 0.5, "b": 4.0}
        assert found["largest"] == [1, 0]
        assert found["collected"] == [[0, 0], [1, 1]]
        assert found["gathered"] == ["0", "1"]
        assert found["aligned"] == 0
        assert found["first"] == "from 0"
        assert found["first_failed"] == found["one_failed"] != ""


def test_two_parts_of_a_batch_are_the_batch(told: list[Any]) -> None:
    first, second = (answer["sums"] for answer in told)
    parts = zip(first["batch"], second["batch"], strict=True)
    assert [one + other for one, other in parts] == first["whole_batch"]
    assert (first["pairs"], second["pairs"]) == ([0, 1, 0, 1], [2, 3, 2, 3])
    assert first["gradient"] == second["gradient"]
    whole = first["whole_gradient"]
    assert first["gradient"]["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert first["gradient"]["weight"] == pytest.approx(whole["weight"], rel=1e-5)


def test_a_rank_knows_what_another_has_asked(told: list[Any]) -> None:
    for answer in told:
        assert len(answer["sums"]["answered"]) > VIEWS
        assert all(answer["sums"]["answered"])


def test_images_and_students_are_the_same_on_all_ranks(told: list[Any], folder: Path) -> None:
    first, second = (answer["held"] for answer in told)
    assert first.keys() == {"images", "student"}
    assert first == second
    # Only the first one writes, and nothing of the state is left.
    assert {path.name for path in folder.glob("bundle*")} == {"bundle"}


def test_two_processes_are_as_accurate_as_one(
    told: list[Any], digits_teacher: TrainedDigits, tmp_path: Path
) -> None:
    alone = shared_run.quantize_digits(
        tmp_path / "alone", str(digits_teacher.model_file), str(digits_teacher.image_folder)
    )
    first, second = (answer["accuracy"] for answer in told)
    assert first == second
    assert alone is not None
    assert first == pytest.approx(alone, abs=NOISE_POINTS)
    assert first > digits_teacher.accuracy - NOISE_POINTS


def test_a_rank_without_memory_makes_all_repeat_the_step_in_pieces(tmp_path: Path) -> None:
    first, second = shared_run.started("memory", tmp_path)
    assert first == second
    for said in (first.pop("never"), second.pop("never")):
        assert "1 images of the student stage must fit" in said
        assert "rank 1: Tried to allocate 2.00 GiB" in said
        assert "pass more processes, which share a batch" in said
    for name, runs in first.items():
        assert sum(run["missed"] for run in runs) >= len(runs) - 1, name
        for run in runs:
            if run["missed"]:
                assert run["pieces"] == 2
                # Only what a block reads may have been computed whole, with other last bits.
                assert run["apart"] <= (1e-5 if name == "blocks" else 0.0), name


def test_a_rank_whose_disk_is_full_ends_all_of_them(told: list[Any]) -> None:
    assert all("none on this machine" in rank["full"] for rank in told)


def test_the_first_rank_tells_what_ends_the_run(told: list[Any]) -> None:
    assert [rank["elsewhere"] for rank in told] == [False, True]


def test_a_late_rank_is_named(told: list[Any]) -> None:
    assert "got no answer from rank 1;" in told[0]["late"]
    assert "--resume" in told[0]["late"]


def torchrun(*arguments: str, **options: Any) -> "subprocess.Popen[str]":
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    return subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=shared_run.environment(),
        **options,
    )


@pytest.mark.parametrize(
    "words",
    [
        "torch.distributed.run --standalone --nproc-per-node 2",
        "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1"
        " --mixed_precision no --dynamo_backend no",
    ],
    ids=["torchrun", "accelerate"],
)
def test_what_a_launcher_says_is_understood(words: str, tmp_path: Path) -> None:
    script = tmp_path / "said.py"
    script.write_text("from lrq_deploy.launch import launch\nprint(f'{launch()}\\n', end='')\n")
    done = subprocess.run(
        [sys.executable, "-m", *words.split(), str(script)],
        capture_output=True,
        text=True,
        check=True,
        env=shared_run.environment(),
    )
    said = [line for line in done.stdout.splitlines() if line.startswith("Launch")]
    assert sorted(said) == [str(Launch(rank, 2, rank, 2)) for rank in (0, 1)]


@pytest.mark.parametrize("launched", [False, True], ids=["alone", "torchrun"])
def test_a_rank_that_dies_is_named_and_the_run_continues(
    told: list[Any], folder: Path, tmp_path: Path, launched: bool
) -> None:
    job = (shared_run.__file__, "bundle", str(tmp_path))
    (tmp_path / "kill").touch()
    if launched:
        killed = torchrun(*job)
        output, _ = killed.communicate()
        # The launcher may end the others before they miss the dead one; then it alone names it.
        assert re.search(r"rank +: 1 .*\n +exitcode +: -9", output), output
    else:
        ended = shared_run.ended("bundle", tmp_path)
        assert ended.returncode == 1
        assert "no answer from rank 1" in ended.stderr
    assert not (tmp_path / "bundle").exists()
    assert list((tmp_path / "bundle.run").glob("student-*"))
    (tmp_path / "kill").unlink()
    continued = torchrun(*job)
    output, _ = continued.communicate()
    assert continued.returncode == 0, output
    assert contents(tmp_path / "bundle") == contents(folder / "bundle")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_launcher_keeps_the_state(
    digits_teacher: TrainedDigits, tmp_path: Path, number: signal.Signals
) -> None:
    state = tmp_path / "bundle.run"
    job = torchrun(
        *("-m", "lrq_deploy", "quantize", str(digits_teacher.model_file), "--bits", "4"),
        *("--out", str(tmp_path / "bundle"), "--checkpoint-every", "0.01", "--device", "cpu"),
    )
    while not list(state.glob("generator-*")) and job.poll() is None:
        time.sleep(0.05)
    os.kill(job.pid, number)
    output, _ = job.communicate()
    assert job.returncode != 0
    assert output.count(f"stopped by {number.name}; the state of the run is in {state}") == 1
    assert "torchrun --nproc-per-node 2 -m lrq_deploy quantize" in output
    # One of the processes reports progress.
    steps = recipe_settings("balanced", (1, 8, 8)).generator_steps
    assert output.count(f"generator: {steps} steps") == 1
    assert (state / "run.json").exists()
