"""What is printed holds nothing that a terminal obeys, wherever a name comes from."""

import json
import re
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

import lrq_deploy.cli
from lrq_deploy.cli.reports.console import ReportConsole

pytestmark = pytest.mark.unit

NAME = "a\x1b[2J\x9b31m\r\x07\u202eé [red]b[/red]"


def test_names_are_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    console = ReportConsole()
    table = Table(NAME)
    table.add_row(NAME)
    table.add_row(Text(NAME))
    for printed in (NAME, Text(NAME), table):
        console.print(printed)
    shown = capsys.readouterr().out
    assert shown.count("a\\u001b[2J\\u009b31m") == 5
    assert "\\u202eé [red]b[/red]" in shown
    assert all(char.isprintable() for char in shown.replace("\n", ""))


def test_json_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    ReportConsole().print_json(data={NAME: NAME})
    shown = capsys.readouterr().out
    assert json.loads(shown) == {NAME: NAME}
    assert all(char.isprintable() for char in shown.replace("\n", ""))


def test_every_command_prints_there() -> None:
    folder = Path(lrq_deploy.cli.__file__).parent
    found = [f.name for f in folder.rglob("*.py") if re.search(r"\bConsole\(", f.read_text())]
    assert found == []
