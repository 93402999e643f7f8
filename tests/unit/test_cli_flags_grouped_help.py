"""Options in groups: each in one, an example that parses."""

import shlex

import pytest
import typer
from typer.testing import CliRunner

from lrq_deploy.cli.commands import quantize as quantize_module
from lrq_deploy.cli.commands.plan import plan
from lrq_deploy.cli.commands.quantize import quantize
from lrq_deploy.cli.flags.grouped_help import EXAMPLES, GROUPS, GroupedCommand
from lrq_deploy.cli.flags.quantize_flags import QuantizeFlags

pytestmark = pytest.mark.unit


@pytest.fixture
def app() -> typer.Typer:
    found = typer.Typer(name="lrq-deploy", rich_markup_mode=None)
    found.command(cls=GroupedCommand)(quantize)
    found.command(cls=GroupedCommand)(plan)
    return found


def shown(app: typer.Typer, command: str) -> str:
    return CliRunner().invoke(app, [command, "--help"]).output


def test_every_option_is_in_one_group() -> None:
    names = [name for group in GROUPS.values() for name in group]
    assert sorted(names) == sorted({*QuantizeFlags.__dataclass_fields__, "config", "json", "quiet"})


@pytest.mark.parametrize("command", ["quantize", "plan"])
def test_sections_stand_in_order_and_hold_their_options(app: typer.Typer, command: str) -> None:
    text = shown(app, command)
    titles = [title for title in ("Arguments", *GROUPS, "Options", "Example") if title in text]
    places = [text.index(f"\n{title}:\n") for title in titles]
    assert places == sorted(places)
    assert ("Images" in titles) == (command == "quantize")
    network = text[text.index("\nNetwork:\n") : text.index("\nWidths and runtimes:\n")]
    assert "--mean" in network
    assert "--bits" not in network
    rest = " ".join(text[places[-2] : places[-1]].split())
    assert rest == "Options: --help Show this message and exit."


@pytest.mark.parametrize("command", EXAMPLES)
def test_an_example_ends_the_help_and_parses(
    app: typer.Typer, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = shown(app, command).partition("\nExample:\n")[2]
    words = shlex.split(example.replace("\\\n", " "))
    assert words[:2] == ["lrq-deploy", command]
    seen: list[object] = []
    monkeypatch.setattr(quantize_module, "run_and_report", lambda *a, **_: seen.append(a))
    monkeypatch.setattr("lrq_deploy.cli.commands.plan._print", lambda *a: seen.append(a))
    assert CliRunner().invoke(app, words[1:]).exit_code == 0
    assert len(seen) == 1


@pytest.mark.parametrize(
    "part",
    [
        "8 to 512 pixels a side",
        "unless exactly one known network fits",
        "TorchScript, or a whole module in a pickle",
        "else pixels stay in 0..1, with a warning",
        "Required unless both --weight-bits and --act-bits are given",
        "calibrate: ranges only, no training",
        "a2 opens small angles to the class centre",
    ],
)
def test_what_was_not_said_is_said(app: typer.Typer, part: str) -> None:
    assert part in " ".join(shown(app, "quantize").split())
