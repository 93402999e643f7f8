"""``lrq-deploy sensitivity``: what it prints and writes."""

import io
import json
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from rich.console import Console
from support.small_networks import with_statistics
from torch import nn

from lrq_deploy.calibration import sensitivity as probing
from lrq_deploy.cli import main
from lrq_deploy.cli.reports.sensitivity import print_sensitivity
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.sensitivity import Damage, Sensitivity, SensitivityTable

pytestmark = pytest.mark.unit

ARCH_FILE = """
from torch import nn

def build():
    print("built for you by build()")
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )
"""

FullSettings = probing.probe_settings


def few_steps(input_shape: tuple[int, int, int]) -> RecipeSettings:
    return replace(
        FullSettings(input_shape),
        generator_steps=2,
        refinement_steps=1,
        batch_size=16,
        pool_images=32,
    )


def run(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *flags: str,
) -> object:
    (folder / "net.py").write_text(ARCH_FILE, encoding="utf-8")
    names: dict[str, nn.Module] = {}
    exec(ARCH_FILE, names)
    with redirect_stdout(None):
        network = with_statistics(names["build"]())
    torch.save(network.state_dict(), folder / "model.pt")
    words = ["lrq-deploy", "sensitivity", str(folder / "model.pt"), "--input-shape", "3,12,12"]
    arch = ["--arch", f"{folder / 'net.py'}:build", "--quiet", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [*words, *arch, *flags])
    monkeypatch.setattr(probing, "probe_settings", few_steps)
    monkeypatch.setenv("COLUMNS", "140")
    with pytest.raises(SystemExit) as caught:
        main.run()
    return caught.value.code


def test_words_rank_layers_and_activations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(tmp_path, monkeypatch)
    text = capsys.readouterr().out
    assert code == 0
    for part in ("W2", "W8", "A2", "A8", "input", "KL(teacher || student)", "32 synthetic images"):
        assert part in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", "net.py"]


def ranked(width: int, terminal: bool) -> str:
    """What is printed of twelve layers of one name each, all equally bad."""
    damages = (
        *(Damage(2, 1.234, 0.5, 0.0), Damage(3, 0.567, 0.891, 0.0)),
        *(Damage(4, 0.089, 0.965, 0.0), Damage(8, 0.00012, 1.0, 0.0)),
    )
    kinds: tuple[Literal["weight", "activation"], ...] = ("weight", "activation")
    entries = tuple(
        Sensitivity(f"x.layer1.0.conv{n}", kind, 1_234_567, ("layers.fc",), damages)
        for kind in kinds
        for n in range(12)
    )
    written = io.StringIO()
    table = SensitivityTable("net", 32, entries)
    console = Console(file=written, width=width, force_terminal=terminal, color_system=None)
    print_sensitivity(console, table)
    return written.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("width", [30, 40, 60, 80])
def test_numbers_are_never_split(width: int, terminal: bool) -> None:
    words = [word.strip("*,") for word in ranked(width, terminal).split()]
    for number, rows in (("1,234,567", 12), *((n, 24) for n in ("1.234", "50.0", "1.2e-04"))):
        assert words.count(number) == rows


@pytest.mark.parametrize(("width", "terminal"), [(20, False), (80, False), (40, True)])
def test_names_stay_whole_in_a_log_and_in_a_list(
    width: int, terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    text = ranked(width, terminal)
    words = [word.strip(",") for word in text.split()]
    assert all(words.count(f"layer1.0.conv{n}") == 2 for n in range(12))
    assert max(map(len, text.splitlines())) <= width or not terminal


def test_the_worst_are_marked_without_bold_letters() -> None:
    text = ranked(100, False)
    assert text.count("*1.234") == 2 * 3
    assert "*: the three worst" in " ".join(text.split())


def test_json_and_files_hold_one_table_and_are_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "table"
    assert run(tmp_path, monkeypatch, "--json", "--out", str(out)) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / "sensitivity.json").read_text())
    kinds = [entry["kind"] for entry in printed["entries"]]
    assert kinds == ["weight"] * 3 + ["activation"] * 4
    assert (out / "sensitivity.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(out.iterdir())) == 2

    assert run(tmp_path, monkeypatch, "--out", str(out)) == main.EXIT_INPUT
    assert "--force" in capsys.readouterr().err
    assert run(tmp_path, monkeypatch, "--out", str(out), "--force") == 0


def test_averaged_weights_beside_those_that_are_read_are_spoken_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda w, path: save({"model": w, "model_ema": w}, path))
    assert run(tmp_path, monkeypatch) == 0
    assert "warning: averaged weights lie under model_ema" in capsys.readouterr().out


def test_a_file_as_folder_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, monkeypatch, "--out", str(tmp_path / "model.pt" / "x")) == main.EXIT_INPUT
    assert "--out must lie in a directory that can be written" in capsys.readouterr().err
