"""From options to a network with weights: precedence, and every refusal on the way."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from support.architecture_index import keep_indexes
from support.model_files import logits_of, options_for
from torch import nn
from torch.export import ExportedProgram

from lrq_deploy.errors import CheckpointError, LrqError, OptionError
from lrq_deploy.loading import adopt_module, load_model
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.teacher import Preprocessing

pytestmark = pytest.mark.unit

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "models"
NET = """
from torch import nn

def build(num_classes=10):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, num_classes),
    )
"""


def _network(classes: int = 6) -> nn.Module:
    scope: dict[str, Any] = {}
    exec(NET, scope)
    torch.manual_seed(0)
    network: nn.Module = scope["build"](classes).eval()
    return network


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    torch.save({"state_dict": _network().state_dict()}, tmp_path / "weights.pt")
    return tmp_path


def test_a_state_dict_with_its_file(files: Path) -> None:
    arch = f"{files / 'net.py'}:build"
    found = load_model(options_for(files, arch=arch, input_shape=(3, 16, 24)))
    images = torch.randn(2, 3, 16, 24)
    assert torch.equal(logits_of(found.program, images), _network()(images))
    assert (found.name, found.input_shape) == ("build", (3, 16, 24))
    assert found.origin == "torch.save archive weights.pt under state_dict"
    assert found.preprocessing == Preprocessing((0.0,) * 3, (1.0,) * 3, known=False)


def test_the_name_tells_what_the_options_do_not(tmp_path: Path) -> None:
    import torchvision

    network = torchvision.models.resnet18(num_classes=10)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    options = options_for(tmp_path, arch="torchvision:resnet18")
    found = load_model(options)
    assert found.input_shape == (3, 224, 224)
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert found.preprocessing == Preprocessing(*imagenet, known=True, resize=256)
    assert isinstance(found.program, nn.Module)
    assert torch.equal(found.program.state_dict()["fc.weight"], network.state_dict()["fc.weight"])
    given = dataclasses.replace(options, input_shape=(3, 64, 64), mean=(0.5,) * 3, std=(0.25,) * 3)
    found = load_model(given)
    assert found.input_shape == (3, 64, 64)
    assert found.preprocessing == Preprocessing((0.5,) * 3, (0.25,) * 3, known=True)


def test_googlenet_answers_as_released(tmp_path: Path) -> None:
    """Its auxiliary heads are left over; mean and std 0.5 stand for its inner normalisation."""
    import torchvision

    released = torchvision.models.googlenet(
        num_classes=4, aux_logits=True, transform_input=True, init_weights=False
    ).eval()
    torch.save(released.state_dict(), tmp_path / "weights.pt")
    found = load_model(options_for(tmp_path, arch="torchvision:googlenet"))
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    imagenet = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    own = torchvision.transforms.Normalize(found.preprocessing.mean, found.preprocessing.std)
    with torch.no_grad():
        wanted = released(imagenet(pixels))
    torch.testing.assert_close(logits_of(found.program, own(pixels)), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("stem", "factory", "shape"),
    [
        ("resnet20", "resnet_cifar.py:resnet20", (3, 32, 32)),
        ("resnet32", "resnet_cifar.py:resnet32", (3, 32, 32)),
        ("resnet20_jpeg", "resnet_cifar.py:resnet20", (3, 32, 32)),
        ("mobilenet_vww", "mobilenet_vww.py:mobilenet_vww", (3, 96, 96)),
    ],
)
def test_the_shared_networks(stem: str, factory: str, shape: tuple[int, int, int]) -> None:
    if not SHARED.exists():
        pytest.skip(f"no {SHARED}")
    options = options_for(SHARED, f"{stem}.pt", arch=f"{SHARED}/{factory}", input_shape=shape)
    logits = logits_of(load_model(options).program, torch.zeros(2, *shape))
    assert logits.shape == (2, 2 if stem == "mobilenet_vww" else 10)
    assert torch.isfinite(logits).all()


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archives")
    images = torch.zeros(2, 3, 16, 24)
    batch, height = torch.export.Dim("batch"), torch.export.Dim("height", min=8, max=64)
    for name, shapes in (
        ("fixed", None),
        ("model", ({0: batch},)),
        ("tall", ({0: batch, 2: height},)),
    ):
        program = torch.export.export(_network(), (images,), dynamic_shapes=shapes)
        torch.export.save(program, folder / f"{name}.pt2")
        (folder / f"{name}.pt2").rename(folder / f"{name}.pt")
    return folder


@pytest.mark.parametrize("name", ["fixed", "model"])
def test_an_archive_is_complete(archives: Path, name: str) -> None:
    found = load_model(options_for(archives, f"{name}.pt"))
    assert isinstance(found.program, ExportedProgram)
    assert (found.name, found.input_shape) == (name, (3, 16, 24))
    assert not found.preprocessing.known
    images = torch.randn(2, 3, 16, 24)
    assert torch.equal(found.program.module()(images), _network()(images))


def test_options_that_contradict_an_archive(archives: Path) -> None:
    with pytest.raises(OptionError, match="1 values for 3 channels"):
        load_model(options_for(archives, "model.pt", mean=(0.5,), std=(0.5,)))
    with pytest.raises(OptionError, match=r"3,24,16 for .*3,16,24"):
        load_model(options_for(archives, "model.pt", input_shape=(3, 24, 16)))
    with pytest.raises(OptionError, match="leave out --arch"):
        load_model(options_for(archives, "model.pt", arch="torchvision:resnet18"))


def test_a_dynamic_side_comes_from_the_option(archives: Path) -> None:
    with pytest.raises(OptionError, match="--input-shape"):
        load_model(options_for(archives, "tall.pt"))
    found = load_model(options_for(archives, "tall.pt", input_shape=(3, 32, 24)))
    assert found.input_shape == (3, 32, 24)
    with pytest.raises(OptionError, match="exported with"):
        load_model(options_for(archives, "tall.pt", input_shape=(3, 32, 32)))


def test_a_trusted_module_needs_no_arch(tmp_path: Path) -> None:
    torch.save(_network(), tmp_path / "net.pt")
    options = options_for(tmp_path, "net.pt", input_shape=(3, 16, 16))
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.conv\.Conv2d"):
        load_model(options)
    found = load_model(dataclasses.replace(options, trust_pickle=True))
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(logits_of(found.program, images), _network()(images))
    assert found.name == "net"


def _no_arch(files: Path) -> QuantizeOptions:
    return options_for(files, input_shape=(3, 16, 16))


def _no_shape(files: Path) -> QuantizeOptions:
    return options_for(files, arch=f"{files / 'net.py'}:build")


def _other_net(files: Path) -> QuantizeOptions:
    (files / "other.py").write_text(NET.replace("4, 3)", "5, 3)").replace("2d(4)", "2d(5)"))
    return options_for(files, arch=f"{files / 'other.py'}:build", input_shape=(3, 16, 16))


def _mean_of_one_channel(files: Path) -> QuantizeOptions:
    arch = "torchvision:squeezenet1_1"
    import torchvision

    torch.save(torchvision.models.squeezenet1_1().state_dict(), files / "weights.pt")
    return options_for(files, arch=arch, mean=(0.5,), std=(0.5,))


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (_no_arch, OptionError, "pass --arch"),
        (_no_shape, OptionError, "pass --input-shape"),
        (_other_net, CheckpointError, r"0\.weight \(file \[4,3,3,3\], network \[5,3,3,3\]\)"),
        (_mean_of_one_channel, OptionError, "one value per input channel"),
    ],
)
def test_refusals(files: Path, make: Any, error: type[LrqError], said: str) -> None:
    options = make(files)
    before = sorted(files.iterdir())
    with pytest.raises(error, match=said):
        load_model(options)
    assert sorted(files.iterdir()) == before


def test_a_wrong_guess_of_the_class_count_falls_back(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes=3):\n"
        "        super().__init__()\n"
        "        self.answer = nn.Linear(4, num_classes)\n"
        "        self.head = nn.Linear(8, 4)\n"
    )
    weights = {"answer.weight": torch.ones(3, 4), "answer.bias": torch.ones(3)}
    weights |= {"head.weight": torch.ones(4, 8), "head.bias": torch.ones(4)}
    torch.save(weights, tmp_path / "weights.pt")
    arch = f"{tmp_path / 'net.py'}:Net"
    found = load_model(options_for(tmp_path, arch=arch, input_shape=(1, 8, 8)))
    assert isinstance(found.program, nn.Module)
    assert torch.equal(found.program.state_dict()["answer.weight"], torch.ones(3, 4))


def _in_memory() -> QuantizeOptions:
    return QuantizeOptions(Path("mine"), Path("out"), input_shape=(3, 16, 16))


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, torch.compile, torch.optim.swa_utils.AveragedModel],
    ids=["parallel", "compiled", "averaged"],
)
def test_a_wrapped_network_in_memory_is_unwrapped(wrap: Any) -> None:
    network = _network().eval()
    loaded = adopt_module(nn.DataParallel(wrap(network)), _in_memory())
    assert type(loaded.program) is type(network)
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(logits_of(loaded.program, images), logits_of(network, images))


def test_a_network_in_memory_that_cannot_be_copied_is_refused() -> None:
    network = _network().eval()
    network.last_features = network(torch.rand(2, 3, 16, 16))
    with pytest.raises(CheckpointError, match=r"be one that copy\.deepcopy copies.*RuntimeError"):
        adopt_module(network, _in_memory())
    with pytest.raises(CheckpointError, match="must hold its weights"):
        adopt_module(_network().to("meta"), _in_memory())


def _scripted(network: nn.Module) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(network)


def test_torchscript_in_memory_is_copied() -> None:
    network = _network().eval()
    scripted = _scripted(network)
    loaded = adopt_module(scripted, _in_memory())
    images = torch.rand(2, 3, 16, 16)
    expected = logits_of(network, images)
    for tensor in scripted.parameters():
        tensor.data.zero_()
    torch.testing.assert_close(logits_of(loaded.program, images), expected)
    with pytest.raises(CheckpointError, match=r"must be a module.*method"):
        adopt_module(_network().forward, _in_memory())  # type: ignore[arg-type]


def test_torchscript_runs_where_it_is_trusted(files: Path) -> None:
    network = _network().eval()
    torch.jit.save(_scripted(network), files / "script.pt")
    with pytest.raises(OptionError, match="--trust-pickle with --input-shape"):
        load_model(options_for(files, "script.pt"))
    with pytest.raises(OptionError, match="input shape must be known"):
        load_model(options_for(files, "script.pt", trust_pickle=True))
    shape = (3, 16, 16)
    loaded = load_model(options_for(files, "script.pt", trust_pickle=True, input_shape=shape))
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(logits_of(loaded.program, images), logits_of(network, images))
    assert (loaded.name, loaded.origin) == ("script", "TorchScript script.pt")


def test_torchscript_of_a_known_network_needs_no_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    keep_indexes(tmp_path / "cache", monkeypatch)
    network = torchvision.models.resnet18(num_classes=4).eval()
    torch.jit.save(torch.jit.trace(network, torch.zeros(1, 3, 64, 64)), tmp_path / "weights.pt")
    found = load_model(options_for(tmp_path))
    assert found.origin == "TorchScript weights.pt, recognised as torchvision:resnet18"
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(logits_of(found.program, images), logits_of(network, images))


def test_torchscript_without_finite_weights(files: Path) -> None:
    network = _network().eval()
    network.get_parameter("0.weight").data[0] = float("nan")
    torch.jit.save(_scripted(network), files / "script.pt")
    with pytest.raises(CheckpointError, match=r"0\.weight"):
        load_model(options_for(files, "script.pt", trust_pickle=True, input_shape=(3, 16, 16)))
