"""Networks by name and from the user's own file."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from lrq_deploy.architecture.named import build_architecture
from lrq_deploy.errors import CheckpointError, OptionError

pytestmark = pytest.mark.unit

NET = """
from torch import nn
from blocks_of_{tag} import body

WIDTH = 4

def build():
    return nn.Sequential(body(), nn.Linear(WIDTH, 3))

def build_for(num_classes):
    return nn.Sequential(body(), nn.Linear(WIDTH, num_classes))

class Network(nn.Sequential):
    def __init__(self, num_classes=7):
        super().__init__(body(), nn.Linear(WIDTH, num_classes))

def wants_more(depth, num_classes=3):
    return build()

def breaks():
    return nn.Linear(WIDTH, None)

def leaves():
    raise SystemExit(3)

def no_network():
    return [1]
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    (tmp_path / f"blocks_of_{tmp_path.name}.py").write_text(
        "from torch import nn\ndef body():\n    return nn.Flatten()\n"
    )
    path = tmp_path / "net.py"
    path.write_text(NET.replace("{tag}", tmp_path.name))
    return path


@pytest.mark.parametrize(
    ("factory", "num_classes", "rows"),
    [
        ("build", None, 3),
        ("build", 9, 3),
        ("build_for", 9, 9),
        ("Network", 9, 9),
        ("Network", None, 7),
    ],
)
def test_a_file_with_a_sibling(net: Path, factory: str, num_classes: int | None, rows: int) -> None:
    path_before, names_before = list(sys.path), set(sys.modules)
    found = build_architecture(f"{net}:{factory}", num_classes)
    assert found.module(torch.zeros(1, 4)).shape == (1, rows)
    assert not found.module.training
    assert (found.name, found.input_shape, found.mean) == (factory, None, None)
    assert sys.path == path_before
    added = set(sys.modules) - names_before
    assert all(name.startswith("_lrq_arch_") for name in added)
    assert not (net.parent / "__pycache__").exists()


def test_an_edited_file_is_read_again(net: Path) -> None:
    build_architecture(f"{net}:build")
    net.write_text(net.read_text().replace("WIDTH = 4", "WIDTH = 6"))
    assert build_architecture(f"{net}:build").module[1].in_features == 6  # type: ignore[index]


@pytest.mark.parametrize(
    ("factory", "error", "said"),
    [
        ("biuld", OptionError, r"'biuld'.*build, build_for.*did you mean build\?"),
        ("WIDTH", OptionError, "not callable"),
        ("wants_more", OptionError, "needs depth"),
        ("build_for", OptionError, "needs num_classes"),
        ("breaks", CheckpointError, r"TypeError.*from breaks in .*line 21"),
        ("leaves", CheckpointError, "SystemExit: 3"),
        ("no_network", CheckpointError, r"torch\.nn\.Module; got list"),
    ],
)
def test_factories_that_do_not_serve(
    net: Path, factory: str, error: type[Exception], said: str
) -> None:
    path_before = list(sys.path)
    with pytest.raises(error, match=said):
        build_architecture(f"{net}:{factory}")
    assert sys.path == path_before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import torch\n\nimport no_such_package_at_all\n", r"ModuleNotFoundError.*line 3"),
        ("x = 1\ny = = 2\n", r"SyntaxError.*line 2"),
        ("def f():\n    raise ValueError('odd width')\nf()\n", r"ValueError: odd width.*line 2"),
        ("import sys\nsys.exit('usage: train.py')\n", r"SystemExit: usage: train\.py.*line 2"),
    ],
)
def test_files_that_fail_to_import(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "net.py").write_text(text)
    names_before = set(sys.modules)
    with pytest.raises(CheckpointError, match=said):
        build_architecture(f"{tmp_path / 'net.py'}:build")
    assert not any(name.startswith("_lrq_arch_") for name in set(sys.modules) - names_before)


@pytest.mark.parametrize("length", [3, 300])
def test_the_file_is_missing(tmp_path: Path, length: int) -> None:
    with pytest.raises(OptionError, match=r"no file at .*nnn\.py; check --arch"):
        build_architecture(f"{tmp_path / ('n' * length)}.py:build")


@pytest.mark.parametrize("name", ["net", "nets.small"])
def test_a_module_in_place_of_its_file_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(f"{name.replace('.', '/')}.py")
    path.parent.mkdir(exist_ok=True)
    path.touch()
    with pytest.raises(OptionError, match=rf"did you mean --arch {path}:build\?"):
        build_architecture(f"{name}:build")


@pytest.mark.parametrize("spec", ["", "resnet18", ":build", "net.py:", "torchvision: "])
def test_malformed(spec: str) -> None:
    with pytest.raises(OptionError, match="--arch must be"):
        build_architecture(spec)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("torchvision:resnet81", "resnet18"),
        ("torchvision:fasterrcnn_resnet50_fpn", "which is a detector; .* are not supported"),
        ("torchvision:fcn_resnet50", "which is for segmentation"),
        ("torchvision:raft_small", "classifier that torchvision has"),
        ("timm:hf-hub:someone/model", "without a download"),
    ],
)
def test_unknown_names(spec: str, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        build_architecture(spec)


def test_a_torchvision_name_tells_its_input() -> None:
    found = build_architecture("torchvision:mobilenet_v3_small", 11)
    assert found.input_shape == (3, 224, 224)
    assert found.mean == (0.485, 0.456, 0.406)
    assert found.std == (0.229, 0.224, 0.225)
    assert found.resize == 256
    assert found.module(torch.zeros(1, 3, 64, 64)).shape == (1, 11)


def test_timm_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(OptionError, match=r"pip install 'lrq-deploy\[timm\]'"):
        build_architecture("timm:resnet18")


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_a_timm_name_tells_its_input() -> None:
    found = build_architecture("timm:resnet10t", 6)
    assert found.input_shape == (3, 176, 176)
    assert found.mean == (0.485, 0.456, 0.406)
    assert found.resize is not None
    assert found.resize >= 176
    assert found.module(torch.zeros(1, 3, 64, 64)).shape == (1, 6)
    with pytest.raises(OptionError, match="resnet10t"):
        build_architecture("timm:resnet10tt")
