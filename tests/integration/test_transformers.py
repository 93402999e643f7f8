"""Checkpoints of transformers: networks, weights under their stored names, image processors."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lrq_deploy.cli.commands.inspect import inspection_json
from lrq_deploy.cli.job.preparing import load_teacher
from lrq_deploy.cli.reports.inspect import print_inspection
from lrq_deploy.errors import CheckpointError, LrqError, OptionError
from lrq_deploy.images import ImageReader
from lrq_deploy.inspection.advice import advise
from lrq_deploy.inspection.inspect import inspect_model
from lrq_deploy.loading import load_model
from lrq_deploy.options import QuantizeOptions

pytestmark = pytest.mark.integration

SIDE = 48
PHOTOS = Path(__file__).resolve().parents[3] / "shared" / "data" / "photos"
NETWORKS: dict[str, dict[str, Any]] = {
    "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    # Stored under the names of an older release, as all vision transformers of the library.
    "ViT": {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": SIDE,
        "patch_size": 16,
    },
}
# 8-bit steps of a pixel: the library resizes with other kernels than Pillow's.
FEW_STEPS = 3


def saved(folder: Path, name: str, half: bool = False) -> nn.Module:
    """A network with random weights, as the library keeps it."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(num_labels=7, **NETWORKS[name])
    network: nn.Module = getattr(transformers, f"{name}ForImageClassification")(config).eval()
    if half:
        network = network.half()
    network.save_pretrained(folder)  # type: ignore[operator]
    return network.float()


def options(folder: Path, **changes: Any) -> QuantizeOptions:
    return replace(QuantizeOptions(folder / "model.safetensors", folder / "out"), **changes)


def logits(network: Any, images: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = network(images).logits
    return result


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_is_that_of_the_library(tmp_path: Path, name: str, half: bool) -> None:
    network = saved(tmp_path, name, half)
    renamed = load_file(tmp_path / "model.safetensors").keys() != network.state_dict().keys()
    assert renamed == (name == "ViT")
    asked = options(tmp_path, input_shape=(3, SIDE, SIDE))
    found = load_model(asked)
    assert found.name == f"{name}ForImageClassification"
    assert found.origin.endswith("of the config.json beside it")
    assert not found.preprocessing.known
    images = torch.randn(3, 3, SIDE, SIDE)
    assert torch.equal(logits(found.program, images), logits(network, images))
    teacher = load_teacher(asked)
    assert teacher.num_classes == 7
    torch.testing.assert_close(teacher.logits(images), logits(network, images))


def test_the_configuration_states_the_size_of_the_images(tmp_path: Path) -> None:
    saved(tmp_path, "ViT")
    assert load_model(options(tmp_path)).input_shape == (3, SIDE, SIDE)
    saved(tmp_path, "ResNet")
    with pytest.raises(OptionError, match="--input-shape"):
        load_model(options(tmp_path))


PROCESSORS: dict[str, tuple[str, dict[str, Any], int | None]] = {
    "cut": ("BitImageProcessor", {"size": {"shortest_edge": 56}, "crop_size": SIDE}, 56),
    "by a share": ("ConvNextImageProcessor", {"size": {"shortest_edge": SIDE}}, 54),
    "squashed": ("ViTImageProcessor", {"size": {"height": SIDE, "width": SIDE}}, None),
    "twice": ("EfficientNetImageProcessor", {"size": {"height": SIDE, "width": SIDE}}, None),
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_images_are_read_as_the_processor_beside_the_weights_does(
    tmp_path: Path, kind: str
) -> None:
    saved(tmp_path, "ResNet")
    name, settings, resize = PROCESSORS[kind]
    processor = getattr(transformers, name)(**settings)
    processor.save_pretrained(tmp_path)
    found = load_model(options(tmp_path))
    assert found.input_shape == (3, SIDE, SIDE)
    assert found.preprocessing.known
    assert found.preprocessing.resize == resize
    assert (found.preprocessing.interpolation == "bicubic") == (processor.resample == 3)
    if not PHOTOS.is_dir():
        pytest.skip(f"{PHOTOS} is absent")
    reader = ImageReader(found.input_shape, found.preprocessing)
    with Image.open(min(PHOTOS.glob("*.jpg"))) as photo:
        # No processor of these keeps proportions that the result does not have.
        photo.crop((0, 0, 160, 160 if resize is None else 101)).save(tmp_path / "photo.png")
    with Image.open(tmp_path / "photo.png") as photo:
        expected = processor(photo.convert("RGB"), return_tensors="pt")["pixel_values"][0]
    mine = reader.normalise(reader.pixels(tmp_path / "photo.png")[None])[0]
    step = 1 / 255 / min(found.preprocessing.std)
    assert float((mine - expected).abs().max()) <= FEW_STEPS * step
    assert float((mine - expected).abs().mean()) <= step / 2


def test_the_options_stand_above_the_processor(tmp_path: Path) -> None:
    saved(tmp_path, "ResNet")
    transformers.MobileViTImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="reorders or mixes"):
        load_model(options(tmp_path))
    given = {"mean": (0.1, 0.2, 0.3), "std": (1.0, 1.0, 1.0), "input_shape": (3, SIDE, SIDE)}
    found = load_model(options(tmp_path, **given))
    assert found.preprocessing.mean == given["mean"]
    assert found.input_shape == given["input_shape"]


def _weights(change: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    head = "classifier.1.weight"
    if change == "missing":
        return {name: tensor for name, tensor in tensors.items() if name != head}
    return tensors | {head: torch.zeros(7, 3)}


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_weights_of_another_network_are_refused(tmp_path: Path, change: str) -> None:
    saved(tmp_path, "ResNet")
    path = tmp_path / "model.safetensors"
    save_file(_weights(change, load_file(path)), path)
    with pytest.raises(CheckpointError, match="must be those of the ResNetFor"):
        load_model(options(tmp_path, input_shape=(3, SIDE, SIDE)))


@pytest.mark.parametrize(
    ("file", "content", "rule"),
    [
        ("config.json", {"architectures": ["NoForImageClassification"]}, "that transformers has"),
        ("config.json", {"model_type": "nonsense"}, "must be usable"),
        ("config.json", {"depths": "many"}, "must be"),
        ("preprocessor_config.json", {"image_processor_type": "None"}, "must be usable"),
    ],
    ids=["network", "model type", "depths", "processor"],
)
def test_files_that_cannot_be_used_are_refused(
    tmp_path: Path, file: str, content: dict[str, Any], rule: str
) -> None:
    saved(tmp_path, "ResNet")
    transformers.ViTImageProcessor().save_pretrained(tmp_path)
    document = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps(document | content))
    with pytest.raises(LrqError, match=rule):
        load_model(options(tmp_path))


def test_without_the_package_the_install_line_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, "ResNet")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(OptionError, match=r"lrq-deploy\[transformers\]"):
        load_model(options(tmp_path))


def test_inspect_names_the_network_and_builds_nothing(tmp_path: Path) -> None:
    saved(tmp_path, "ResNet")
    found = inspect_model(tmp_path / "model.safetensors")
    assert found.described == "ResNetForImageClassification"
    assert found.num_classes == 7
    assert inspection_json(found)["described"] == found.described
    console = Console(record=True, width=120)
    print_inspection(console, found)
    assert (
        "ResNetForImageClassification of transformers, by the config.json" in console.export_text()
    )
    advice = advise(found)
    assert "ResNetForImageClassification of transformers" in advice.sentence
    (run,) = advice.runs
    assert (run.model, run.arch) == (str(tmp_path / "model.safetensors"), "")
