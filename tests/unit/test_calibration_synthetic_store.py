"""The store of synthetic images: what changes them makes them anew, and nothing else does."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.contexts import ON_CPU
from support.small_networks import CENTRED, SHAPE, Residual, with_statistics

from lrq_deploy.calibration import synthetic_store
from lrq_deploy.calibration.synthetic_store import MadeSet, images_key, synthesize_once
from lrq_deploy.checkpoint.fingerprint import fingerprint
from lrq_deploy.graph.teach import make_teacher
from lrq_deploy.method.recipe import STUDENT_SETTINGS, RecipeSettings
from lrq_deploy.options import MethodSwitches
from lrq_deploy.progress import ProgressEvent, silent
from lrq_deploy.ranks import Ranks
from lrq_deploy.resume.stage_store import StageStore
from lrq_deploy.teacher import Preprocessing, Teacher

pytestmark = pytest.mark.unit

SETTINGS = RecipeSettings(
    overlay_images=2,
    generator_steps=1,
    refinement_steps=1,
    pool_images=8,
    held_out_images=4,
    batch_size=8,
)
SWITCHES = MethodSwitches()


def taught(seed: int = 0, preprocessing: Preprocessing = CENTRED) -> Teacher:
    network = with_statistics(Residual(), seed)
    return make_teacher(network, SHAPE, preprocessing, "net", fingerprint(network.state_dict()))


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return taught()


def key(teacher: Teacher, **changes: Any) -> str:
    values = {
        "settings": SETTINGS,
        "switches": SWITCHES,
        "seed": 0,
        "device": ON_CPU.device,
        **changes,
    }
    return images_key(teacher, **values)


def make(teacher: Teacher, folder: Path, progress: Any = silent) -> MadeSet:
    return synthesize_once(
        StageStore(folder), teacher, SETTINGS, SWITCHES, replace(ON_CPU, progress=progress)
    )


def test_a_second_run_takes_the_images_of_the_first(teacher: Teacher, tmp_path: Path) -> None:
    first = make(teacher, tmp_path)
    events: list[ProgressEvent] = []
    second = make(teacher, tmp_path, events.append)
    assert not first.reused
    assert second.reused
    assert second.seconds == first.seconds > 0
    for name in ("images", "held_out"):
        assert torch.equal(getattr(second.synthetic, name), getattr(first.synthetic, name))
    assert second.synthetic.metrics == first.synthetic.metrics
    assert [event.message for event in events] == [
        f"reused from {tmp_path}, which saves {first.seconds:.1f} s"
    ]


class OneOfTwo(Ranks):
    """Another rank finds nothing in its store."""

    def largest(self, *values: float) -> tuple[float, ...]:
        return tuple(1.0 for _ in values)


def test_images_are_taken_only_where_every_rank_finds_them(
    teacher: Teacher, tmp_path: Path
) -> None:
    make(teacher, tmp_path)
    found = synthetic_store._found(StageStore(tmp_path), key(teacher), mapped=False, ranks=Ranks())
    assert found is not None
    assert (
        synthetic_store._found(StageStore(tmp_path), key(teacher), mapped=False, ranks=OneOfTwo())
        is None
    )


def test_kept_images_have_no_pool_behind_them(teacher: Teacher, tmp_path: Path) -> None:
    make(teacher, tmp_path)
    (kept,) = tmp_path.iterdir()
    assert kept.stat().st_size < 1.5 * (8 + 4) * 4 * 3 * 12 * 12


def test_damaged_images_are_made_again(teacher: Teacher, tmp_path: Path) -> None:
    first = make(teacher, tmp_path)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:-7])
    again = make(teacher, tmp_path)
    assert not again.reused
    assert torch.equal(again.synthetic.images, first.synthetic.images)
    assert make(teacher, tmp_path).reused


def test_another_teacher_has_other_images(teacher: Teacher) -> None:
    known = key(teacher)
    assert key(taught()) == known
    assert key(taught(seed=1)) != known
    assert key(taught(preprocessing=replace(CENTRED, std=(0.25,) * 3))) != known
    assert key(replace(teacher, input_shape=(3, 16, 16))) != known


def test_other_code_makes_other_images(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    known = key(teacher)
    monkeypatch.setattr(synthetic_store, "code_digest", lambda module: f"another {module}")
    assert key(teacher) != known


def test_the_same_weights_in_another_graph_have_other_images(teacher: Teacher) -> None:
    known = key(teacher)
    assert key(replace(teacher, name="other")) == known
    other = taught()
    relu = next(n for n in other.graph.graph.nodes if n.target is torch.ops.aten.relu.default)
    relu.target = torch.ops.aten.hardtanh.default
    other.graph.recompile()
    assert key(other) != known


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"seed": 1}, False),
        ({"device": torch.device("cuda")}, False),
        ({"switches": MethodSwitches(long_range=False)}, False),
        ({"switches": MethodSwitches(margin="a1")}, False),
        ({"switches": MethodSwitches(image_source="noise")}, False),
        ({"switches": MethodSwitches(decoupled=False)}, True),
    ],
)
def test_options_count_where_the_images_depend_on_them(
    teacher: Teacher, changes: dict[str, Any], same: bool
) -> None:
    assert (key(teacher, **changes) == key(teacher)) == same


@pytest.mark.parametrize("count", ["generated_images", "painted_images", "painted_held_out"])
def test_how_a_pool_is_laid_out_counts(
    teacher: Teacher, count: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key(teacher)
    monkeypatch.setattr(RecipeSettings, count, property(lambda settings: 7))
    assert key(teacher) != before


def test_margin_b_is_the_students(teacher: Teacher) -> None:
    off, b = MethodSwitches(margin="off"), MethodSwitches(margin="b")
    assert key(teacher, switches=off) == key(teacher, switches=b)


@pytest.mark.parametrize("name", [field.name for field in fields(RecipeSettings)])
def test_settings_count_unless_they_are_the_students(teacher: Teacher, name: str) -> None:
    changed: Any = replace(SETTINGS, **{name: getattr(SETTINGS, name) * 2})
    assert (key(teacher, settings=changed) == key(teacher)) == (name in STUDENT_SETTINGS)
    if name in STUDENT_SETTINGS:
        usual = synthesize_once(None, teacher, SETTINGS, SWITCHES, ON_CPU)
        other = synthesize_once(None, teacher, changed, SWITCHES, ON_CPU)
        assert torch.equal(usual.synthetic.images, other.synthetic.images)


def test_images_that_several_processes_made_are_not_those_of_one(teacher: Teacher) -> None:
    assert key(teacher, processes=2) != key(teacher) == key(teacher, processes=1)


def test_images_for_sets_of_labels_are_not_those_for_one_class(teacher: Teacher) -> None:
    assert key(replace(teacher, task="multilabel")) != key(teacher)
