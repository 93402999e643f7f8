"""Errors name options as they are typed."""

import sys
from pathlib import Path

import pytest

from lrq_deploy.cli import main
from lrq_deploy.cli.flags.option_names import saying_flags
from lrq_deploy.errors import OptionError

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("command", ["quantize", "plan", "sensitivity"])
@pytest.mark.parametrize(
    ("flags", "rule"),
    [
        (["--input-shape", "3,2,2"], "--input-shape must be 8 to 512 pixels a side"),
        (["--input-shape", "3x2"], "--input-shape must be whole numbers separated by commas"),
        (["--mean", "0.5"], "--mean and --std must be given together"),
        (["--mean", "0.5", "--std", "0"], "--std must be above 0"),
        (["--act-symmetry", "odd"], "--act-symmetry must be 'symmetric' or 'asymmetric'"),
    ],
)
def test_a_command_names_its_options(
    command: str,
    flags: list[str],
    rule: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bits = ["--bits", "4"] if command == "quantize" else []
    monkeypatch.setattr(sys, "argv", ["lrq-deploy", command, "net.pt", *bits, *flags])
    with pytest.raises(SystemExit) as caught:
        main.run()
    assert caught.value.code == main.EXIT_INPUT
    assert capsys.readouterr().err.splitlines()[0] == f"error: {rule}"


@pytest.mark.parametrize(
    ("flags", "rule"),
    [
        (["--max-memory", "0"], "--max-memory must be 1 MiB or more"),
        (["--checkpoint-every", "0"], "--checkpoint-every must be above 0 seconds"),
        (["--recipe", "slow"], "--recipe must be one of fast, balanced, best"),
        (["--seed", "-1"], "--seed must be 0 or more and below 2**63"),
    ],
)
def test_options_of_quantize_alone_are_named(
    flags: list[str], rule: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lrq-deploy", "quantize", "net.pt", "--bits", "4", *flags])
    with pytest.raises(SystemExit):
        main.run()
    assert capsys.readouterr().err.splitlines()[0] == f"error: {rule}"


def test_keys_of_a_file_keep_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.toml"
    config.write_text("input-shape = 3", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["lrq-deploy", "quantize", "net.pt", "--config", str(config)])
    with pytest.raises(SystemExit):
        main.run()
    assert capsys.readouterr().err.startswith(f"error: input-shape in {config}: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed must be 0", "--seed must be 0"),
        ("a seed must be planted", "a seed must be planted"),
        ("pass --input-shape 3,8,8", "pass --input-shape 3,8,8"),
        ("pass input_shape=(3, 8, 8)", "pass input_shape=(3, 8, 8)"),
        ("at most max_memory, or max-memory", "at most --max-memory, or --max-memory"),
        ("images must not change", "--images must not change"),
    ],
)
def test_what_is_no_name_of_an_option_stays(text: str, said: str) -> None:
    with pytest.raises(OptionError) as caught, saying_flags():
        raise OptionError(text, "x", "y")
    assert caught.value.rule == said
