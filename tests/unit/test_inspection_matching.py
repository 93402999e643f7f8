"""The search for an architecture, on state dicts of the real networks."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from support.architecture_index import keep_indexes, some_of_timm

from lrq_deploy.architecture import named
from lrq_deploy.architecture.named import build_architecture
from lrq_deploy.inspection import meta_build
from lrq_deploy.inspection.index import Index, open_index
from lrq_deploy.inspection.matching import LIBRARY_ORDER, find_architectures
from lrq_deploy.inspection.meta_build import families, meta_shapes
from lrq_deploy.inspection.near import Kinship

pytestmark = pytest.mark.unit

Shapes = dict[str, tuple[int, ...]]


@pytest.fixture(autouse=True)
def _kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_indexes(tmp_path, monkeypatch)


def _built(name: str, **settings: Any) -> Shapes:
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None, **settings)
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model.", "_orig_mod.module."])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_a_prefix_and_another_class_count(prefix: str, classes: int) -> None:
    shapes = _built("resnet18", num_classes=classes)
    match = find_architectures({prefix + name: shape for name, shape in shapes.items()})
    assert match.chosen is not None
    assert (match.chosen.spec, match.chosen.prefix) == ("torchvision:resnet18", prefix)
    assert match.chosen.num_classes == classes
    assert match.candidates == (match.chosen,)
    assert "timm was not searched" in match.reason


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "densenet121", "vgg11_bn"])
def test_networks_of_torchvision(name: str) -> None:
    match = find_architectures(_built(name))
    assert match.chosen is not None
    assert match.chosen.spec == f"torchvision:{name}"


@pytest.mark.parametrize("auxiliary", [False, True])
def test_auxiliary_heads_may_be_there(auxiliary: bool) -> None:
    shapes = _built("googlenet", aux_logits=auxiliary, init_weights=False, num_classes=7)
    match = find_architectures(shapes)
    assert match.chosen is not None
    assert (match.chosen.name, match.chosen.num_classes) == ("googlenet", 7)


def test_checkpoints_before_torch_0_4_have_no_counters() -> None:
    shapes = {n: s for n, s in _built("resnet18").items() if not n.endswith("batches_tracked")}
    match = find_architectures(shapes)
    assert match.chosen is not None
    assert match.chosen.name == "resnet18"


def test_a_timm_network_is_found_where_torchvision_has_none() -> None:
    match = find_architectures(meta_shapes("timm", "mobilenetv3_small_050"))
    assert match.chosen is not None
    assert match.chosen.spec == "timm:mobilenetv3_small_050"
    assert match.searched[0].startswith("all ")
    assert match.searched[1].startswith("all 7 networks of timm")


def test_only_plausible_families_are_built_and_then_kept() -> None:
    known = some_of_timm()
    Index("timm", known.version, known.families, known.templates).save()
    steps: list[str] = []
    shapes = meta_shapes("timm", "resnet10t")
    match = find_architectures(shapes, lambda event: steps.append(event.stage))
    assert match.chosen is not None
    assert match.chosen.spec == "timm:resnet10t"
    assert match.searched[1].startswith("2 of 7 networks of timm")
    assert set(steps) == {"timm networks"}
    kept = open_index("timm", dict)
    assert kept is not None
    assert set(kept.entries) == {"resnet/resnet"}


def test_twins_are_listed_and_none_is_chosen() -> None:
    match = find_architectures(meta_shapes("timm", "tf_efficientnet_lite0"))
    found = [candidate.spec for candidate in match.candidates]
    assert found == ["timm:efficientnet_lite0", "timm:tf_efficientnet_lite0"]
    assert match.chosen is None
    assert "padding" in match.reason


def test_of_twins_the_one_that_the_file_names_is_chosen() -> None:
    shapes = meta_shapes("timm", "tf_efficientnet_lite0")
    match = find_architectures(shapes, stated=("resnet18", "tf_efficientnet_lite0"))
    assert match.chosen is not None
    assert match.chosen.spec == "timm:tf_efficientnet_lite0"
    assert "says it is" in match.reason
    twins = ("efficientnet_lite0", "tf_efficientnet_lite0")
    for stated in (("resnet18",), twins):
        assert find_architectures(shapes, stated=stated).chosen is None


def test_torchvision_goes_before_the_twin_in_timm() -> None:
    match = find_architectures(meta_shapes("timm", "resnet18"))
    assert match.chosen is not None
    assert match.chosen.spec == "torchvision:resnet18"


def test_another_stem_is_named() -> None:
    shapes = _built("resnet18", num_classes=10) | {"conv1.weight": (64, 1, 3, 3)}
    match = find_architectures(shapes)
    assert match.candidates == ()
    assert match.near is not None
    assert match.near.specs == ("torchvision:resnet18",)
    assert match.near.differences == ("conv1.weight (file [64,1,3,3], resnet18 [64,3,7,7])",)


def test_the_closest_of_several_is_named() -> None:
    """ResNet-50, ResNeXt-50 and Wide ResNet-50 share all names."""
    shapes = _built("wide_resnet50_2") | {"conv1.weight": (64, 3, 3, 3)}
    near = find_architectures(shapes).near
    assert near is not None
    assert near.spec == "torchvision:wide_resnet50_2"


@pytest.mark.parametrize("before", ["", "module."])
@pytest.mark.parametrize("under", ["", "model.", "net.student."])
def test_tensors_outside_of_a_known_network_are_told(before: str, under: str) -> None:
    shapes = {under + name: shape for name, shape in _built("resnet18", num_classes=7).items()}
    shapes |= {"loss.centers": (7, 512), "loss.scale": ()}
    match = find_architectures({before + name: shape for name, shape in shapes.items()})
    assert match.candidates == ()
    assert match.near is not None
    assert (match.near.specs, match.near.kinship) == (("torchvision:resnet18",), Kinship.EXTRA)
    assert (match.near.prefix, match.near.num_classes) == (before + under, 7)
    assert match.near.outside == (f"{before}loss.centers", f"{before}loss.scale")
    assert "102 tensors" in match.reason
    assert f"outside of it: 2 ({before}loss.centers, {before}loss.scale)" in match.reason


def test_a_copy_is_told_from_other_tensors() -> None:
    shapes = _built("resnet18")
    copies = {f"{top}.{name}": s for top in ("model", "ema") for name, s in shapes.items()}
    near = find_architectures(copies).near
    assert near is not None
    assert near.prefix == "model."
    assert "outside of it: 102 (ema.conv1.weight" in near.reason
    assert near.reason.endswith("those under 'ema.' are another copy")


def test_an_averaged_model_of_torch_is_the_network() -> None:
    network = torch.optim.swa_utils.AveragedModel(torchvision.models.resnet18())
    match = find_architectures({name: v.shape for name, v in network.state_dict().items()})
    assert match.chosen is not None
    assert (match.chosen.spec, match.chosen.prefix) == ("torchvision:resnet18", "module.")


@pytest.mark.parametrize("stem", [(64, 3, 7, 7), (64, 3, 3, 3)])
def test_another_head_is_told_from_another_network(stem: tuple[int, ...]) -> None:
    shapes = _built("resnet18") | {"conv1.weight": stem}
    del shapes["fc.weight"], shapes["fc.bias"]
    shapes |= {"fc.1.weight": (10, 512), "fc.1.bias": (10,)}
    match = find_architectures(shapes)
    assert match.near is not None
    assert match.near.spec == "torchvision:resnet18"
    changed = stem != (64, 3, 7, 7)
    assert match.near.kinship == (Kinship.HEAD_AND_SHAPES if changed else Kinship.HEAD)
    assert match.near.differences[changed:] == (
        "fc.1.weight (only in the file, [10,512])",
        "fc.1.bias (only in the file, [10])",
        "fc.weight (only in resnet18, [1000,512])",
        "fc.bias (only in resnet18, [1000])",
    )


def test_a_profiler_in_the_layers_hides_no_network() -> None:
    costs = {f"layer1.0.{name}": (1,) for name in ("total_ops", "total_params")}
    match = find_architectures({**_built("resnet18"), **costs})
    assert match.chosen is not None
    assert match.chosen.spec == "torchvision:resnet18"


def test_a_tensor_inside_of_a_known_network_is_another_network() -> None:
    match = find_architectures({**_built("resnet18"), "layer1.0.se.weight": (4,)})
    assert match.candidates == ()
    assert match.reason == "no known network has exactly its tensor names"


def test_a_name_too_many_or_too_few_is_no_fit() -> None:
    shapes = _built("resnet18")
    assert not find_architectures({**shapes, "extra.weight": (3,)}).candidates
    shapes.pop("bn1.weight")
    assert not find_architectures(shapes).candidates


def test_a_small_network_is_not_searched_for() -> None:
    match = find_architectures({"fc.weight": (3, 4), "fc.bias": (3,)})
    assert match.searched == ()
    assert "has 2 tensors, fewer than any network" in match.reason
    alone = find_architectures({"fc.weight": (3, 4)})
    assert "has 1 tensor, fewer than any network" in alone.reason


def test_what_is_found_can_be_built() -> None:
    match = find_architectures(_built("mobilenet_v2", num_classes=5))
    assert match.chosen is not None
    network = build_architecture(match.chosen.spec, match.chosen.num_classes).module
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes == _built("mobilenet_v2", num_classes=5)


def test_a_warm_search_is_quick() -> None:
    shapes = _built("resnet18")
    find_architectures(shapes)
    start = time.process_time()
    find_architectures(shapes)
    assert time.process_time() - start < 0.5


def test_libraries_that_are_built_are_compared() -> None:
    assert set(LIBRARY_ORDER) == set(named.LIBRARIES) == set(meta_build.LIBRARIES)


def test_families_hold_every_network_once() -> None:
    for library in LIBRARY_ORDER:
        names = [name for members in families(library).values() for name in members]
        assert len(names) == len(set(names))
        assert "resnet18" in names
