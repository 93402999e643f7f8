"""README, CONTRIBUTING and docs/: their links lead somewhere, their commands and options exist."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from lrq_deploy.method.methods import METHODS

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
LAYERS = ("lrq_deploy", "cli", "calibration", "export")
SOURCES = [path for folder in LAYERS for path in (ROOT / folder).rglob("*.py")]
FENCE = re.compile(r"```\w*\n(.*?)```", flags=re.DOTALL)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
COMMAND = re.compile(r"(?:lrq-deploy|-m lrq_deploy) ([a-z]+)\b(.*)")
BENCHMARK = re.compile(r"python (benchmarks/\w+\.py)(.*)")
FULL = [ROOT / "README.md", ROOT / "docs" / "quantize.md"]
"""Pages that name no option of anything else."""
OPTIONS_OF = {
    "quantize": ("quantize.md",),
    "plan": ("quantize.md", "plan.md"),
    "sensitivity": ("quantize.md", "sensitivity.md"),
    "validate": ("validate.md",),
    "bench": ("validate.md",),
    "build": ("tensorrt.md", "latency.md"),
}
"""Pages below docs/ that have every option of a command."""
OF_MANY = {"--help", "--json", "--quiet"}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def anchors(page: Path) -> frozenset[str]:
    """As GitHub makes them of the headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text_of(page)), flags=re.MULTILINE)
    return frozenset(re.sub(r"[^\w -]", "", h.strip().lower()).replace(" ", "-") for h in headings)


def commands(page: Path) -> list[str]:
    """Lines of code blocks, and code within a sentence."""
    blocks = "\n".join(FENCE.findall(text_of(page))).replace("\\\n", " ").splitlines()
    spans = re.findall(r"`([^`]+)`", FENCE.sub("", text_of(page)))
    return [*blocks, *(" ".join(span.split()) for span in spans)]


@cache
def help_of(command: str) -> str:
    words = [sys.executable, "-m", "lrq_deploy", command, "--help"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    lost = []
    for link in re.findall(r"\]\(([^)\s:]+)\)", FENCE.sub("", text_of(page))):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_their_options_exist(page: Path) -> None:
    unknown = []
    for line in commands(page):
        ours, benchmark = COMMAND.search(line), BENCHMARK.search(line)
        if ours:
            given, told = ours[2], help_of(ours[1])
        elif benchmark:
            given, told = benchmark[2], text_of(ROOT / benchmark[1])
        else:
            continue
        unknown += [(line, o) for o in OPTION.findall(given) if not re.search(rf"{o}\b", told)]
    assert unknown == []


@pytest.mark.parametrize("page", FULL, ids=name_of)
def test_options_named_alone_exist(page: Path) -> None:
    names = ("quantize", "demo", "inspect", "plan", "sensitivity", "validate", "bench", "build")
    known = {option for name in names for option in OPTION.findall(help_of(name))}
    assert set(re.findall(r"`(--[a-z0-9-]+)", text_of(page))) - known == set()


@pytest.mark.parametrize("command", OPTIONS_OF)
def test_options_of_a_command_are_on_its_pages(command: str) -> None:
    pages = "".join(text_of(ROOT / "docs" / name) for name in OPTIONS_OF[command])
    listed = re.findall(r"^  (?:-\w, )?(--[a-z].*?)(?:  |$)", help_of(command), flags=re.MULTILINE)
    # One half of a switch is enough.
    halves = [set(OPTION.findall(option)) for option in listed]
    named = set(OPTION.findall(pages)) | OF_MANY
    assert [options for options in halves if not options & named] == []
    assert len(halves) > len(OF_MANY)


def test_choices_of_quantize_are_on_its_page_as_in_its_help() -> None:
    page = text_of(ROOT / "docs" / "quantize.md").replace("\\|", "|")
    choices = re.findall(
        r"^  (--[\w-]+ [\w-]+(?:\|[\w-]+)+)", help_of("quantize"), flags=re.MULTILINE
    )
    assert [choice for choice in choices if choice.islower() and f"`{choice}`" not in page] == []
    assert len(choices) > 8


def test_every_method_has_a_row_on_its_page() -> None:
    page = text_of(ROOT / "docs" / "method.md")
    assert [name for name in METHODS if f"\n| `{name}` |" not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_names_stand_in_the_files_that_are_said_to_hold_them(page: Path) -> None:
    lost = []
    for name, file in re.findall(r"`(\w+)` in `([\w/]+\.py)`", " ".join(text_of(page).split())):
        holders = [path for path in SOURCES if str(path).endswith(f"/{file}")]
        if not any(re.search(rf"\b{name}\b", text_of(path)) for path in holders):
            lost.append((name, file))
    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_sources_that_are_named_exist(page: Path) -> None:
    named = re.findall(
        r"`((?:lrq_deploy|cli|calibration|export|tests|benchmarks)/[\w/]+\.py)`", text_of(page)
    )
    assert [name for name in named if not (ROOT / name).exists()] == []
