"""The command: readable at 80 columns, JSON for a script, quick when warm."""

import io
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from rich.console import Console
from support.architecture_index import keep_indexes
from torch import nn

from lrq_deploy.cli.commands.inspect import INSPECTION_SCHEMA, inspection_json
from lrq_deploy.cli.flags.quantize_flags import run_command
from lrq_deploy.cli.reports.inspect import print_inspection
from lrq_deploy.inspection.advice import Run
from lrq_deploy.inspection.inspect import inspect_model

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_indexes(tmp_path / "cache", monkeypatch)
    monkeypatch.chdir(tmp_path)


def _resnet18(prefix: str = "") -> Path:
    state = torchvision.models.resnet18(num_classes=10).state_dict()
    torch.save({prefix + name: value for name, value in state.items()}, "net.bin")
    return Path("net.bin")


def _text(path: Path, all_tensors: bool = False) -> str:
    written = io.StringIO()
    print_inspection(Console(file=written, width=80), inspect_model(path), all_tensors)
    return written.getvalue()


def test_the_report_names_the_network_and_the_command() -> None:
    text = _text(_resnet18("module."))
    for part in (
        *("torchvision:resnet18", "without the prefix 'module.'", "11,181,642", "42.7"),
        *("with 10 classes instead of 1000", "[64,3,7,7]", "... 110 more (--all)"),
        "lrq-deploy quantize net.bin --bits 4 --arch torchvision:resnet18",
    ):
        assert part in text
    lines = text.splitlines()
    assert max(len(line) for line in lines if "lrq-deploy" not in line) <= 80


def test_all_shows_every_tensor() -> None:
    path = _resnet18()
    text = _text(path, all_tensors=True)
    assert all(name in text for name in torch.load(path, weights_only=True))
    assert "more (--all)" not in text


def test_tensors_of_every_type_are_counted() -> None:
    names = ("float32", "float16", "uint8", "int8", "int32", "int64")
    state = {f"{name}.x": torch.zeros(2, dtype=getattr(torch, name)) for name in names}
    torch.save(state, "x.pt")
    said = " ".join(_text(Path("x.pt")).split())
    assert all(f"1 {name}" in said for name in names)


def test_markup_in_a_file_stays_text() -> None:
    state = {"[bold]x[/bold].weight": torch.zeros(2, 3), "\x1b[31m": torch.zeros(1)}
    torch.save({"state_dict": state, "note": "[red]y[/red]"}, "x.pt")
    text = _text(Path("x.pt"))
    assert "[bold]x[/bold].weight" in text
    assert "[red]y[/red]" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(("terminal", "whole"), [(False, True), (True, False)])
def test_names_fold_in_a_terminal_and_not_in_a_log(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, whole: bool
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    name = ".".join(["block"] * 20)
    torch.save({name: torch.zeros(2, 3)}, "x.pt")
    written = io.StringIO()
    console = Console(file=written, width=60, force_terminal=terminal, color_system=None)
    print_inspection(console, inspect_model(Path("x.pt")))
    assert (name in written.getvalue()) == whole
    assert "[2,3]" in written.getvalue()


def test_several_commands_where_several_networks_fit() -> None:
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("efficientnet_lite0").state_dict(), "x.pt")
    text = _text(Path("x.pt"))
    assert "Next, one of:" in text
    assert "--arch timm:tf_efficientnet_lite0" in text


def test_another_head_shows_a_file_to_start_from() -> None:
    network = torchvision.models.resnet18()
    network.fc = nn.Sequential(nn.Dropout(), nn.Linear(512, 10))
    torch.save({"model": network.state_dict(), "ema": {"w": torch.ones(2)}}, "x.pt")
    text = _text(Path("x.pt"))
    assert "closest           torchvision:resnet18" in text
    assert "ema (1 tensor)" in text
    assert "      network.fc = nn.Sequential(..., nn.Linear(512, 10))\n" in text
    document = inspection_json(inspect_model(Path("x.pt")))
    assert document["near"] == "torchvision:resnet18"
    assert "nn.Linear(512, 10)" in document["example"]


def test_averaged_weights_are_shown_with_the_line_to_run_first() -> None:
    states = [nn.Conv2d(3, 4, 3).state_dict() for _ in range(2)]
    torch.save(dict(zip(("model", "model_ema"), states, strict=True)), "x.pt")
    text = _text(Path("x.pt"))
    line = (
        "import torch; torch.save(torch.load('x.pt', 'cpu', weights_only=True)['model_ema'], "
        "'x-averaged.pt')"
    )
    assert "Averaged weights lie under model_ema beside those that are read" in text
    assert f"  {line}\n" in text
    document = inspection_json(inspect_model(Path("x.pt")))
    assert (document["averaged"], document["averaged_python"]) == ("model_ema", line)


def test_json_holds_the_finding() -> None:
    document = json.loads(json.dumps(inspection_json(inspect_model(_resnet18()))))
    assert document["schema_version"] == INSPECTION_SCHEMA
    assert document["arch"] == "torchvision:resnet18"
    assert document["num_classes"] == 10
    assert document["tensors"]["fc.weight"] == {"dtype": "float32", "shape": [10, 512]}
    assert document["commands"] == [
        "lrq-deploy quantize net.bin --bits 4 --arch torchvision:resnet18"
    ]


def test_a_proposed_command_parses_back() -> None:
    words = shlex.split(run_command(Run("a b.pt", "timm:x", "3,H,W")))
    assert words[:3] == ["lrq-deploy", "quantize", "a b.pt"]
    assert words[3:] == ["--bits", "4", "--arch", "timm:x", "--input-shape", "3,H,W"]


def test_the_program_loads_no_torch_when_the_index_is_warm() -> None:
    path = _resnet18()
    code = (
        "import sys\n"
        "from lrq_deploy.cli.main import run\n"
        "try:\n    run()\n"
        "finally:\n    print('torch' in sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "inspect", str(path), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["arch"] == "torchvision:resnet18"
    assert done.stderr.strip() == "False"


def test_bad_input_is_exit_code_2() -> None:
    Path("x.pt").write_text("hello")
    done = subprocess.run(
        [sys.executable, "-m", "lrq_deploy", "inspect", "x.pt"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "remedy: " in done.stderr


@pytest.mark.parametrize(
    ("stated", "flags"), [({}, ["--input-shape", "3,H,W"]), ({"image_size": 64}, [])]
)
@pytest.mark.parametrize("processed", [False, True])
def test_a_folder_of_transformers_without_a_size_needs_one(
    stated: dict[str, object], flags: list[str], processed: bool
) -> None:
    about = {"architectures": ["ResNetForImageClassification"], "model_type": "resnet"}
    Path("config.json").write_text(json.dumps(about | stated), encoding="utf-8")
    if processed:
        Path("preprocessor_config.json").write_text("{}", encoding="utf-8")
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 3)).state_dict(), "model.pt")
    document = inspection_json(inspect_model(Path("model.pt")))
    (command,) = document["commands"]
    missing = [] if processed else [*flags, "--mean", "M,M,M", "--std", "S,S,S"]
    assert shlex.split(command)[2:] == ["model.pt", "--bits", "4", *missing]
    said = document["advice"]
    assert ("No file beside it tells the size" in said) == (bool(flags) and not processed)
    assert ("mean and std of its images" in said) == (not flags and not processed)
    assert ("--mean and --std must be known" in said) == (not processed)


def test_a_pickled_module_shows_the_line_to_run_first() -> None:
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), "m.pt")
    text = _text(Path("m.pt"))
    assert "nothing was executed" in text
    assert (
        "  import torch; torch.save(torch.load('m.pt', 'cpu', weights_only=False).state_dict()"
        in text
    )
