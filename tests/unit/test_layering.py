"""The structure of the project, held by its source: who imports whom, what is packaged."""

import ast
import re
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
# Layer -> folder and the layers that it may import, besides itself.
LAYERS: dict[str, tuple[str, set[str]]] = {
    "core": ("lrq_deploy", set()),
    "calibration": ("calibration", {"core"}),
    "export": ("export", {"core"}),
    "cli": ("cli", {"core", "calibration", "export"}),
}
# The public door: ``import lrq_deploy`` and ``python -m lrq_deploy`` lead to the upper layers.
PUBLIC_DOOR = {Path("lrq_deploy/__init__.py"), Path("lrq_deploy/__main__.py")}
MAX_LINES = 400
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


ALL_SOURCES = [path for folder, _ in LAYERS.values() for path in sources(folder)]


def imported_modules(source: str) -> Iterator[str]:
    """Absolute names of all imported modules, also of those inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer_of(module: str) -> str | None:
    """The layer of an imported name, or ``None`` outside the project."""
    parts = module.split(".")
    if parts[0] != "lrq_deploy":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else "core"


def forbidden_imports(layer: str, source: str) -> list[str]:
    allowed = LAYERS[layer][1] | {layer}
    modules = imported_modules(source)
    return [name for name in modules if (found := layer_of(name)) and found not in allowed]


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_follow_the_layers(layer: str) -> None:
    wrong = {
        str(path.relative_to(ROOT)): names
        for path in sources(LAYERS[layer][0])
        if path.relative_to(ROOT) not in PUBLIC_DOOR
        and (names := forbidden_imports(layer, path.read_text(encoding="utf-8")))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("core", "from lrq_deploy import cli"),
        ("core", "def f():\n    import lrq_deploy.export.targets"),
        ("calibration", "from lrq_deploy.export import targets"),
        ("export", "from lrq_deploy.calibration.range_search import search"),
        ("export", "from lrq_deploy.cli.main import run"),
    ],
)
def test_a_wrong_import_would_be_seen(layer: str, source: str) -> None:
    assert len(forbidden_imports(layer, source)) == 1


def rooms_read() -> dict[str, set[str]]:
    """Room -> other rooms that its modules import; modules of a layer in no room do not count."""
    setuptools = PYPROJECT["tool"]["setuptools"]
    layers = {"lrq_deploy": "lrq_deploy"} | setuptools["package-dir"]
    rooms = {name for name in setuptools["packages"] if name not in layers}
    read = {room: set[str]() for room in rooms}
    for room in rooms:
        layer = max((name for name in layers if room.startswith(f"{name}.")), key=len)
        folder = ROOT / layers[layer] / Path(*room.removeprefix(f"{layer}.").split("."))
        for path in folder.glob("*.py"):
            for module in imported_modules(path.read_text(encoding="utf-8")):
                within = [other for other in rooms if module.startswith(f"{other}.")]
                read[room] |= {max(within, key=len)} if within else set()
        read[room].discard(room)
    return read


def test_rooms_do_not_import_each_other_in_circles() -> None:
    read = rooms_read()
    assert "lrq_deploy.graph" in read["lrq_deploy.student"]
    TopologicalSorter(read).prepare()


def test_every_package_is_listed_for_the_wheel() -> None:
    setuptools = PYPROJECT["tool"]["setuptools"]
    folders = {name: ROOT / folder for name, folder in setuptools["package-dir"].items()}
    found = {
        ".".join((name, *path.parent.relative_to(folder).parts))
        for name, folder in folders.items()
        for path in folder.rglob("__init__.py")
    }
    assert set(setuptools["packages"]) == found
    without_init = {
        str(path.parent.relative_to(ROOT))
        for path in ALL_SOURCES
        if not (path.parent / "__init__.py").exists()
    }
    assert without_init == set()


def test_modules_stay_short() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in ALL_SOURCES
    }
    assert {name: count for name, count in lengths.items() if count > MAX_LINES} == {}


def test_type_checkers_find_the_mapped_folders() -> None:
    for folder in ("cli", "calibration", "export"):
        link = ROOT / "typings" / "lrq_deploy" / folder
        assert link.is_symlink()
        assert link.resolve() == ROOT / folder


def test_set_up_leaves_the_choice_of_package_index_to_pip() -> None:
    files = [ROOT / name for name in ("pyproject.toml", "constraints.txt", ".ci/run")]
    choice = re.compile(r"://|index-url|find-links")
    assert [path.name for path in files if choice.search(path.read_text(encoding="utf-8"))] == []
    assert not re.search("index-url|find-links", README)


def test_constraints_pin_every_direct_requirement() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0].lower() for line in lines if "==" in line}
    extras = PYPROJECT["project"]["optional-dependencies"]
    wanted = PYPROJECT["project"]["dependencies"] + extras["dev"] + extras["timm"]
    names = {re.split(r"[<>=!~\[; ]", line)[0].lower().replace("_", "-") for line in wanted}
    assert names - pinned == set()
