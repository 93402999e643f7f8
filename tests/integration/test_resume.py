"""Runs that are stopped, killed or fail, and continue to the bits of one that ran through."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import resumed_run
from support.resumed_run import ALWAYS, NETWORK, contents, run
from support.small_networks import Residual, with_statistics

from lrq_deploy.cli.commands.demo_network import TrainedDigits
from lrq_deploy.cli.commands.quantize import run_and_report
from lrq_deploy.cli.flags.quantize_flags import QuantizeFlags
from lrq_deploy.errors import OptionError, OutputError
from lrq_deploy.progress import ProgressEvent
from lrq_deploy.resume.control import RunControl
from lrq_deploy.resume.run_folder import run_folder_of
from lrq_deploy.resume.stop_request import RunStopped, stop_on_signals

pytestmark = pytest.mark.integration

RESUME = RunControl(resume=True)
LEAST_KILLS = 30


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("whole") / "bundle"
    run(out)
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]
    return contents(out)


def at(stage: str, step: int, act: Callable[[], object]) -> Callable[[ProgressEvent], None]:
    """Progress that acts once, after a step."""

    def report(event: ProgressEvent) -> None:
        if (event.stage, event.step) == (stage, step) and not event.message:
            act()

    return report


def stop(out: Path, stage: str = "student", step: int = 6, **changes: Any) -> None:
    """Run until a SIGTERM after a step."""

    def terminate() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with stop_on_signals() as request, pytest.raises(RunStopped):
        run(out, at(stage, step, terminate), RunControl(stop=request, **changes))
    assert not out.exists()
    assert (run_folder_of(out) / "run.json").exists()


@pytest.mark.parametrize(
    ("stage", "step"),
    [("generator", 4), ("images", 6), ("images", 8), ("ranges", 0), ("student", 5), ("export", 0)],
)
def test_a_terminated_run_continues_to_the_same_bundle(
    whole: dict[str, Any], tmp_path: Path, stage: str, step: int
) -> None:
    out = tmp_path / "bundle"
    stop(out, stage, step)
    notes: list[str] = []
    run(out, lambda event: notes.append(event.message), RESUME)
    assert contents(out) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    after = {"generator": "step 4", "images": f"step {step}", "student": "step 5"}
    assert any(after.get(stage, "") in note for note in notes)


@pytest.mark.timeout(1800)
def test_runs_that_are_killed_again_and_again_come_to_the_same_bundle(tmp_path: Path) -> None:
    arguments = [sys.executable, resumed_run.__file__, str(tmp_path), str(LEAST_KILLS), "0"]
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    killed = json.loads(done.stdout)
    assert sum(killed.values()) >= LEAST_KILLS
    assert killed.keys() >= {"generator", "images", "student"}


def test_a_damaged_checkpoint_is_passed_over(whole: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    stop(out, checkpoint_every=ALWAYS)
    before, newest = sorted(run_folder_of(out).glob("student-*"))
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    notes: list[str] = []
    run(out, lambda event: notes.append(event.message), RESUME)
    (note,) = [note for note in notes if "is damaged" in note]
    assert newest.name in note
    assert note.endswith(f"continues after step {int(before.name.split('-')[1])}")
    assert contents(out) == whole


def test_without_a_usable_checkpoint_a_stage_starts_anew(
    whole: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    stop(out)
    (only,) = run_folder_of(out).glob("student-*")
    only.write_bytes(b"")
    notes: list[str] = []
    run(out, lambda event: notes.append(event.message), RESUME)
    assert any(note.endswith("starts anew") for note in notes)
    assert contents(out) == whole


def test_a_full_disk_is_told_and_loses_nothing(whole: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))

    try:
        with pytest.raises(OutputError, match=r"free space.*--resume"):
            run(out, at("student", 6, fill), RunControl(checkpoint_every=ALWAYS))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    kept = {path.name.rsplit("-", 1)[0] for path in run_folder_of(out).glob("student-*")}
    assert kept == {"student-00000004", "student-00000005"}
    run(out, control=RESUME)
    assert contents(out) == whole


def test_other_options_or_another_network_are_refused_with_the_difference(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    stop(out, "generator", 1)
    kept = sorted(run_folder_of(out).iterdir())
    with pytest.raises(OptionError) as caught:
        run(out, control=RESUME, seed=3)
    assert caught.value.received == "seed 3 instead of 0"
    other = with_statistics(Residual(), seed=5)
    with pytest.raises(OptionError, match=r"teacher [0-9a-f]{12} instead of [0-9a-f]{12}"):
        run(out, control=RESUME, network=other)
    assert sorted(run_folder_of(out).iterdir()) == kept


def test_a_stopped_run_is_not_lost_by_accident(whole: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    stop(out, "generator", 1)
    with pytest.raises(OutputError, match="--resume"):
        run(out)
    run(out, force=True)
    assert contents(out) == whole
    assert not run_folder_of(out).exists()


def test_a_second_run_of_the_process_does_not_disturb_the_first(
    whole: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    refused: list[str] = []

    def again() -> None:
        for force in (False, True):
            with pytest.raises(OutputError) as caught:
                run(out, force=force)
            refused.append(caught.value.received)

    run(out, at("student", 6, again))
    assert refused == [f"{out}.run, in which another run keeps its state"] * 2
    assert contents(out) == whole


@pytest.mark.parametrize("written", [b'{"seed": ', b"[1]", b"\xff"])
def test_a_damaged_identity_is_told_and_force_starts_anew(
    whole: dict[str, Any], tmp_path: Path, written: bytes
) -> None:
    out = tmp_path / "bundle"
    stop(out)
    (run_folder_of(out) / "run.json").write_bytes(written)
    with pytest.raises(OutputError, match="damaged") as caught:
        run(out, control=RESUME)
    assert "--force" in caught.value.remedy
    run(out, force=True)
    assert contents(out) == whole


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    (tmp_path / "bundle.run").mkdir()
    (tmp_path / "bundle.run" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.txt"):
        run(out, force=True)
    assert (tmp_path / "bundle.run" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("cache", ["bundle", "bundle/cache", "bundle.run"])
def test_a_cache_that_would_pass_with_the_run_is_refused(tmp_path: Path, cache: str) -> None:
    with pytest.raises(OptionError, match="outlast"):
        run(tmp_path / "bundle", control=RunControl(cache=tmp_path / cache))
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_resume_is_a_start(whole: dict[str, Any], tmp_path: Path) -> None:
    run(tmp_path / "bundle", control=RESUME)
    assert contents(tmp_path / "bundle") == whole


def test_a_finished_run_is_said_to_be_finished(tmp_path: Path) -> None:
    out = tmp_path / "b"
    run(out)
    with pytest.raises(OutputError, match="whose run is finished") as caught:
        run(out, control=RESUME)
    assert f"lrq-deploy validate {out}" in caught.value.remedy
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="must be empty"):
        run(tmp_path / "other", control=RESUME)


def test_the_same_seed_gives_the_same_bundle(whole: dict[str, Any], tmp_path: Path) -> None:
    torch.rand(3)
    run(tmp_path / "bundle", network=NETWORK)
    assert contents(tmp_path / "bundle") == whole


def mapped_files() -> str:
    return Path("/proc/self/maps").read_text(encoding="utf-8")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc/self/maps")
def test_images_beyond_the_memory_stay_on_the_disk(whole: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    seen: dict[str, bool] = {}

    def look(event: ProgressEvent) -> None:
        files = [line for line in mapped_files().splitlines() if str(tmp_path) in line]
        seen.setdefault(event.stage, any(".run/images" in line for line in files))

    run(out, look, RunControl(max_memory_mb=1))
    assert seen["images"]
    assert seen["student"]
    assert contents(out) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_images_on_the_disk_survive_a_stop(whole: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    stop(out, "images", 10, max_memory_mb=1)
    run(out, control=RESUME)
    assert contents(out) == whole


@pytest.mark.parametrize("limit", [1, None])
@pytest.mark.parametrize("damage", ["gone", "short", "flipped"])
def test_images_that_the_disk_has_lost_are_drawn_anew(
    whole: dict[str, Any], tmp_path: Path, damage: str, limit: int | None
) -> None:
    out = tmp_path / "bundle"
    stop(out, "images", 10, max_memory_mb=1)
    pool = run_folder_of(out) / "images.pool"
    if damage == "gone":
        pool.unlink()
    elif damage == "short":
        os.truncate(pool, 1000)
    else:
        data = bytearray(pool.read_bytes())
        data[3] ^= 0x40
        pool.write_bytes(data)
    notes: list[str] = []
    control = RunControl(resume=True, max_memory_mb=limit)
    run(out, lambda event: notes.append(event.message), control)
    assert "a file of images that is damaged; starts anew" in notes
    assert contents(out) == whole


def test_with_room_the_images_are_in_memory(whole: dict[str, Any], tmp_path: Path) -> None:
    run(tmp_path / "bundle", control=RunControl(max_memory_mb=100_000))
    assert contents(tmp_path / "bundle") == whole
    stop(tmp_path / "other", "images", 10, max_memory_mb=100_000)
    assert not list(tmp_path.glob("other.run/*.pool"))


def test_the_command_line_says_how_to_go_on(
    digits_teacher: TrainedDigits,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lrq_deploy.cli.reports import progress_view

    class Interrupting(progress_view.SilentView):
        def __call__(self, event: ProgressEvent) -> None:
            if (event.stage, event.step) == ("generator", 1):
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(progress_view, "progress_view", lambda *_, **__: Interrupting())
    out = tmp_path / "bundle"
    flags = QuantizeFlags(bits=4, out=out, device="cpu")
    with pytest.raises(RuntimeError) as caught:
        run_and_report(digits_teacher.model_file, flags, json=False, quiet=True)
    assert getattr(caught.value, "exit_code", None) == 130
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith(f"stopped by SIGINT; the state of the run is in {out}.run")
    assert told[1] == (
        f"  lrq-deploy quantize {digits_teacher.model_file} --bits 4 --device cpu --out {out}"
        " --resume --quiet"
    )
