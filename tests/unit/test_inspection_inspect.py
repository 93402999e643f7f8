"""What is said of real files of every kind, and that nothing in them runs."""

import argparse
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torchvision
from onnx import TensorProto
from safetensors.torch import save_file
from support.architecture_index import inspected, keep_indexes
from support.model_files import small_network, write_onnx
from torch import nn

from lrq_deploy.checkpoint.read import read_state_dict
from lrq_deploy.errors import CheckpointError
from lrq_deploy.inspection.advice import Run, advise
from lrq_deploy.inspection.inspect import inspect_model

pytestmark = pytest.mark.unit

BLANKS = ("M,M,M", "S,S,S")
"""Of ``--mean`` and ``--std`` for three channels."""

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "models"


@pytest.fixture(autouse=True)
def _kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_indexes(tmp_path / "cache", monkeypatch)


def test_a_config_json_beside_the_weights_tells_twins_apart(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    path = tmp_path / "model.safetensors"
    state = timm.create_model("tf_efficientnet_lite0", num_classes=5).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    assert inspect_model(path).match.chosen is None
    (tmp_path / "config.json").write_text('{"architecture": "tf_efficientnet_lite0"}')
    found = inspect_model(path)
    assert found.match.chosen is not None
    assert found.match.chosen.spec == "timm:tf_efficientnet_lite0"


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_training_checkpoint_of_a_known_network(tmp_path: Path, legacy: bool) -> None:
    network = torchvision.models.resnet18(num_classes=10)
    content = {"epoch": 90, "arch": "it\x1b[31m", "state_dict": network.state_dict()}
    content["optimizer"] = {"state": {0: {"exp_avg": torch.ones(2)}}}
    path = tmp_path / "mystery.onnx"
    found = inspected(content, path, _use_new_zipfile_serialization=not legacy)
    assert found.match.chosen is not None
    assert found.match.chosen.spec == "torchvision:resnet18"
    assert found.outline.location == "state_dict"
    assert found.outline.facts == {"epoch": "90", "arch": "it?[31m"}
    assert found.parameters == sum(p.numel() for p in network.parameters())
    assert (found.num_classes, found.batch_norms, found.input_channels) == (10, 20, 3)
    assert found.outline.unsafe_globals == ()
    assert found.outline.beside == ("optimizer (1 tensor)",)
    advice = advise(found)
    assert [(run.model, run.arch) for run in advice.runs] == [(str(path), "torchvision:resnet18")]


@pytest.mark.parametrize("prefix", ["", "net."])
@pytest.mark.parametrize("kind", ["torch", "with arguments", "safetensors"])
@pytest.mark.parametrize("beside", [False, True], ids=["outside", "also-beside"])
def test_the_line_that_saves_the_network_alone_is_real(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str, kind: str, beside: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    state = torchvision.models.resnet18(num_classes=3).state_dict()
    more = {prefix + name: value for name, value in state.items()} | {"loss.w": torch.ones(2)}
    more |= {f"{prefix}temperature": torch.ones(1)} if beside else {}
    if kind == "safetensors":
        save_file(more, "c.pt")
    else:
        args = {} if kind == "torch" else {"args": argparse.Namespace(lr=0.1)}
        torch.save({"state_dict": more, **args}, "c.pt")
    found = inspect_model(Path("c.pt"))
    advice = advise(found)
    outside = f"2 (loss.w, {prefix}temperature)" if beside else "1 (loss.w)"
    assert f"outside of it: {outside}" in advice.sentence
    exec(advice.python)
    assert [(run.model, run.arch) for run in advice.runs] == [
        ("c-weights.pt", "torchvision:resnet18")
    ]
    saved = torch.load("c-weights.pt", weights_only=True)
    assert saved.keys() == state.keys()
    assert inspect_model(Path("c-weights.pt")).match.chosen is not None


def test_safetensors(tmp_path: Path) -> None:
    network = torchvision.models.mobilenet_v2()
    path = tmp_path / "x.bin"
    save_file(network.state_dict(), path, metadata={"format": "pt", "who": "me"})
    found = inspect_model(path)
    assert found.kind == "safetensors"
    assert found.match.chosen is not None
    assert found.match.chosen.spec == "torchvision:mobilenet_v2"
    assert found.outline.facts == {"format": "pt", "who": "me"}
    assert found.input_channels == 3


def test_the_shared_networks_fit_nothing_and_say_so() -> None:
    files = sorted(SHARED.glob("*.pt"))
    if not files:
        pytest.skip(f"no {SHARED}")
    for path in files:
        found = inspect_model(path)
        tensors = read_state_dict(path).tensors
        assert {n: t.shape for n, t in found.outline.tensors.items()} == {
            name: tuple(tensor.shape) for name, tensor in tensors.items()
        }
        assert found.match.candidates == ()
        assert found.num_classes == (2 if "vww" in path.name else 10)
        advice = advise(found)
        assert "Python file that defines the network" in advice.sentence
        assert "mean and std" in advice.sentence
        assert advice.runs == (Run(str(path), "FILE.py:FACTORY", "3,H,W", False, *BLANKS),)


def test_a_pickled_module_is_described_unexecuted(tmp_path: Path) -> None:
    found = inspected({"model": torchvision.models.resnet18(num_classes=4)}, tmp_path / "m.pt")
    assert found.outline.module_class == "torchvision.models.resnet.ResNet"
    assert "torch.nn.modules.conv.Conv2d" in found.outline.unsafe_globals
    assert found.match.chosen is not None
    assert found.match.chosen.spec == "torchvision:resnet18"
    advice = advise(found)
    assert "import and may run torchvision.models.resnet.ResNet" in advice.sentence
    # The proposed line is real: it makes the file that the proposed command reads.
    exec(advice.python.replace("'m-weights.pt'", repr(str(tmp_path / "m-weights.pt"))))
    assert [run.model for run in advice.runs] == ["m-weights.pt"]
    again = inspect_model(tmp_path / "m-weights.pt")
    assert again.outline.unsafe_globals == ()
    assert again.match.chosen == found.match.chosen


class _Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_bomb_is_named_and_does_not_go_off(tmp_path: Path, legacy: bool) -> None:
    content = {"state_dict": small_network().state_dict(), "extra": _Bomb(tmp_path / "executed")}
    path = tmp_path / "c.pt"
    found = inspected(content, path, _use_new_zipfile_serialization=not legacy)
    assert found.outline.unsafe_globals == (f"{os.system.__module__}.system",)
    assert f"may run {os.system.__module__}.system" in advise(found).sentence
    assert found.num_classes == 6
    assert not (tmp_path / "executed").exists()


def test_a_key_with_a_dot_is_one_key(tmp_path: Path) -> None:
    content = {
        "best.model": small_network().state_dict(),
        "args": argparse.Namespace(run=os.getcwd),
    }
    found = inspected(content, tmp_path / "x.pt")
    assert found.outline.location == "best.model"
    assert "['best.model'], 'x-weights.pt')" in advise(found).python


def _exported(path: Path, network: nn.Module | None = None) -> None:
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        network or small_network(), (torch.zeros(2, 3, 16, 24),), dynamic_shapes=({0: batch},)
    )
    stream = io.BytesIO()
    torch.export.save(program, stream)
    path.write_bytes(stream.getvalue())


@pytest.mark.filterwarnings("ignore:Expect archive file")
def test_an_export_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    _exported(path)
    found = inspect_model(path)
    assert found.kind == "export-archive"
    assert found.outline.written_by == f"torch {torch.__version__}"
    assert found.outline.input_shape == (-1, 3, 16, 24)
    assert (found.num_classes, found.batch_norms, found.input_channels) == (6, 1, 3)
    wanted = {name: tuple(t.shape) for name, t in small_network().state_dict().items()}
    assert {name: t.shape for name, t in found.outline.tensors.items()} == wanted
    assert "torch.export" in found.outline.description
    assert advise(found).runs == (Run(str(path), "", "", False, *BLANKS),)


@pytest.mark.filterwarnings("ignore:Expect archive file")
@pytest.mark.parametrize(
    ("part", "said"),
    [
        (nn.BatchNorm2d(3), "batch_norm with training=True"),
        (nn.Dropout(0.5), "dropout with train=True"),
        (nn.Dropout(0.0), ""),
        (nn.InstanceNorm2d(3), ""),
    ],
)
def test_an_archive_that_was_exported_in_training_is_told(
    tmp_path: Path, part: nn.Module, said: str
) -> None:
    rest = (nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6))
    for training in (True, False):
        path = tmp_path / f"{training}.pt"
        _exported(path, nn.Sequential(part, *rest).train(training))
        advice = advise(inspect_model(path))
        refused = training and bool(said)
        assert advice.runs == (() if refused else (Run(str(path), "", "", False, *BLANKS),))
        again = f"({said}), which quantize refuses. Call eval() on the network and export it again"
        assert (again in advice.sentence) == refused


@pytest.mark.filterwarnings("ignore:Expect archive file")
def test_an_archive_of_other_floats_is_told(tmp_path: Path) -> None:
    program = torch.export.export(small_network().double(), (torch.zeros(2, 3, 16, 24).double(),))
    torch.export.save(program, tmp_path / "a.pt2")
    advice = advise(inspect_model(tmp_path / "a.pt2"))
    assert "Call float() on the network" in advice.sentence
    assert advice.runs == ()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_network_that_is_quantized_already_is_told(tmp_path: Path) -> None:
    state = small_network().state_dict()
    state["0.weight"] = torch.quantize_per_tensor(state["0.weight"], 0.1, 0, torch.qint8)
    advice = advise(inspected(state, tmp_path / "a.pt"))
    assert "quantized already (0.weight is qint8)" in advice.sentence
    assert advice.runs == ()
    packed = {"1.scale": torch.tensor(0.1), "1.zero_point": torch.tensor(0)}
    advice = advise(inspected(packed, tmp_path / "b.pt"))
    assert "quantized already" in advice.sentence
    assert advice.runs == ()


@pytest.mark.parametrize(
    ("kernels", "channels"),
    [
        ({"b.weight": (8, 1, 3, 3), "stem.weight": (8, 3, 3, 3)}, 3),
        ({"stem.weight": (8, 1, 3, 3), "a.weight": (8, 8, 3, 3)}, 1),
        ({"z.weight": (3, 13, 1, 1), "a.weight": (8, 3, 7, 7)}, 13),
        ({"z.weight": (8, 1, 3, 3), "a.weight": (16, 3, 3, 3)}, 3),
        ({"z.weight": (8, 1, 3, 3), "a.weight": (8, 3, 1, 1)}, 1),
        ({"a.weight": (8, 16, 3, 3), "b.weight": (16, 8, 3, 3)}, None),
        ({"a.weight": (8, 16, 3, 3), "b.weight": (16, 3, 1, 1)}, 3),
        ({"b.weight": (8, 16, 3, 3), "a.weight": (16, 8, 3, 3)}, 16),
    ],
)
def test_a_depthwise_kernel_before_the_stem_is_not_grey(
    tmp_path: Path, kernels: dict[str, tuple[int, ...]], channels: int | None
) -> None:
    state = {name: torch.zeros(shape) for name, shape in kernels.items()}
    assert inspected(state, tmp_path / "x.pt").input_channels == channels


def test_a_known_network_tells_its_channels(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    save_file(timm.create_model("mobilenetv3_small_050").state_dict(), tmp_path / "x")
    found = inspect_model(tmp_path / "x")
    assert found.match.candidates
    assert found.input_channels == 3


def test_a_folder_with_one_file_of_weights_is_that_file(tmp_path: Path) -> None:
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    save_file(torchvision.models.mobilenet_v2().state_dict(), folder / "model.safetensors")
    found = inspect_model(folder)
    assert found.path == folder / "model.safetensors"
    assert advise(found).runs[0].model == str(found.path)


@pytest.mark.filterwarnings("ignore:Expect archive file")
def test_an_export_archive_with_code_is_told(tmp_path: Path) -> None:
    _exported(tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as old,
        zipfile.ZipFile(tmp_path / "b.pt", "w") as new,
    ):
        for entry in old.infolist():
            data = old.read(entry).replace(b"torch.ops.aten.linear.default", b"os.system")
            new.writestr(entry.filename, data)
    found = inspect_model(tmp_path / "b.pt")
    assert "os.system" in found.outline.unsafe_globals[0]
    assert advise(found).runs == ()


def test_onnx_with_a_tensor_that_cannot_be_is_damaged(tmp_path: Path) -> None:
    write_onnx(tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    model.graph.initializer.add(name="huge", data_type=TensorProto.FLOAT, dims=[2**40, 2**40])
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(CheckpointError, match="must be intact"):
        inspect_model(tmp_path / "net.onnx")


def test_onnx(tmp_path: Path) -> None:
    write_onnx(tmp_path / "net.pt")
    found = inspect_model(tmp_path / "net.pt")
    assert (found.kind, found.outline.description) == ("onnx", "ONNX graph")
    assert found.outline.written_by == "acme 2.5"
    assert "opset 17" in found.outline.facts["ONNX"]
    assert found.outline.facts["inputs"] == "image float32 [?,3,8,8]"
    assert found.outline.facts["operators"] == "2: 1 Flatten, 1 Gemm"
    assert (found.num_classes, found.input_channels, found.parameters) == (5, 3, 960)
    advice = advise(found)
    assert "not ONNX" in advice.sentence
    assert advice.runs == ()


def test_a_network_without_batch_norm_is_told(tmp_path: Path) -> None:
    found = inspected(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(2, 3)).state_dict(), tmp_path / "x"
    )
    assert (found.batch_norms, found.input_channels, found.num_classes) == (0, 1, 3)
    assert "no BatchNorm" in advise(found).sentence
    assert [run.arch for run in advise(found).runs] == ["FILE.py:FACTORY"]


def test_a_script_is_run_where_it_is_trusted_or_known(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(small_network(), torch.zeros(1, 3, 8, 8)), tmp_path / "own.pt")
    (run,) = advise(inspect_model(tmp_path / "own.pt")).runs
    assert run == Run(str(tmp_path / "own.pt"), "", "3,H,W", True, *BLANKS)
    known = torch.jit.trace(torchvision.models.resnet18().eval(), torch.zeros(1, 3, 64, 64))
    torch.jit.save(known, tmp_path / "known.pt")
    (run,) = advise(inspect_model(tmp_path / "known.pt")).runs
    assert (run.arch, run.trusted) == ("torchvision:resnet18", False)
