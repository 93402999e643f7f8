"""``lrq-deploy demo --force``: a former demo is replaced, and nothing else."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lrq_deploy.cli import main
from lrq_deploy.cli.commands import demo, demo_network
from lrq_deploy.cli.commands.demo_network import TrainedDigits, train_digits
from lrq_deploy.cli.flags.quantize_flags import command_line

pytestmark = pytest.mark.unit

Start = Callable[[], tuple[object, str]]


@pytest.fixture
def start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Start:
    """The command on a folder; training there is one epoch, and nothing is quantized."""

    def train(out: Path, seed: int, progress: object) -> TrainedDigits:
        return train_digits(out, seed, epochs=1)

    def run() -> tuple[object, str]:
        words = ["lrq-deploy", "demo", "--out", str(tmp_path / "d"), "--force", "--quiet"]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as caught:
            main.run()
        return caught.value.code, capsys.readouterr().err

    monkeypatch.setattr(demo_network, "train_digits", train)
    monkeypatch.setattr(demo, "run_and_report", lambda *_, **__: None)
    return run


def former(folder: Path) -> None:
    """What a demo leaves, and what other commands put beside its bundle."""
    train_digits(folder, 0, epochs=1)
    (folder / "bundle").mkdir()
    (folder / "bundle.optimized.onnx").write_bytes(b"")


def contents(folder: Path) -> dict[str, bytes | None]:
    paths = sorted(folder.rglob("*"))
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


def test_the_readme_shows_the_command_that_it_runs() -> None:
    flags = demo.demo_flags(demo.DEFAULT_OUT, seed=None, recipe=None, force=None)
    command = command_line(demo.DEFAULT_OUT / demo.MODEL, flags)
    readme = Path(__file__).parents[2] / "README.md"
    assert f"\n{command}\n" in readme.read_text(encoding="utf-8")


def test_a_former_demo_is_replaced(tmp_path: Path, start: Start) -> None:
    former(tmp_path / "d")
    (tmp_path / "d" / "model.pt").write_bytes(b"old")
    code, said = start()
    assert (code, said) == (0, "")
    assert (tmp_path / "d" / "model.pt").stat().st_size > 1000


def test_a_demo_that_was_killed_among_its_digits_is_replaced(tmp_path: Path, start: Start) -> None:
    former(tmp_path / "d")
    (tmp_path / "d" / "model.pt").unlink()
    sorted((tmp_path / "d" / "digits").rglob("*.png"))[0].unlink()
    assert start()[0] == 0


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("model.pt", False),
        ("thesis.tex", True),
        ("digits/mine/notes.txt", True),
        ("digits/3/mine.png", True),
        ("digits/3/9999.png", True),
        ("bundle/thesis.tex", True),
        ("bundle.run/thesis.tex", True),
    ],
)
def test_what_is_not_a_demos_stays(tmp_path: Path, start: Start, name: str, beside: bool) -> None:
    if beside:
        former(tmp_path / "d")
    mine = tmp_path / "d" / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("precious", encoding="utf-8")
    before = contents(tmp_path)
    code, said = start()
    assert code == main.EXIT_INPUT
    assert Path(name).name in said
    assert said.count("\n") == 3
    assert contents(tmp_path) == before


def test_a_class_folder_that_is_empty_counts_too(tmp_path: Path, start: Start) -> None:
    former(tmp_path / "d")
    (tmp_path / "d" / "digits" / "mine").mkdir()
    code, said = start()
    assert code == main.EXIT_INPUT
    assert "digits/mine" in said
