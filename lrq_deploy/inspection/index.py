"""Index of the known architectures, kept in the user's cache directory."""

import gc
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from lrq_deploy.durable import write_atomically
from lrq_deploy.inspection.signature import Entry
from lrq_deploy.progress import ProgressCallback, StageProgress, silent

__all__ = ["Index", "cache_directory", "installed_version", "open_index"]

SCHEMA: Final = 2
_NOTHING = "an index must be a mapping of this schema"


def cache_directory() -> Path:
    """Where indexes are kept: below ``XDG_CACHE_HOME``, or ``~/.cache`` without it."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    # The specification says to ignore a relative path.
    base = Path(chosen) if os.path.isabs(chosen) else Path(os.path.expanduser("~")) / ".cache"
    return base / "lrq-deploy"


def installed_version(library: str) -> str | None:
    """Version of an installed library, without importing it."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


@dataclass
class Index:
    """Signatures of a library's networks, filled family by family as they are asked for.

    Attributes:
        library: ``torchvision`` or ``timm``.
        version: of the library.
        families: names of the networks by family.
        templates: by family, the name templates of its middle network.
        entries: by family, the signatures of all its networks.
    """

    library: str
    version: str
    families: dict[str, list[str]]
    templates: dict[str, frozenset[str]] = field(default_factory=dict)
    entries: dict[str, list[Entry]] = field(default_factory=dict)

    def add_templates(self, progress: ProgressCallback = silent) -> bool:
        """Look at one network of each family; whether anything was missing."""
        missing = [family for family in self.families if family not in self.templates]
        stage = self._stage(progress, "families", len(missing))
        for family in _without_collector(missing):
            names = self.families[family]
            built = _build(self.library, [names[len(names) // 2]])
            self.templates[family] = frozenset().union(*(templates for _, templates in built))
            stage.advance()
        return bool(missing)

    def add_entries(self, families: Iterable[str], progress: ProgressCallback = silent) -> bool:
        """Build all networks of some families; whether anything was missing."""
        missing = [family for family in families if family not in self.entries]
        count = sum(len(self.families[family]) for family in missing)
        stage = self._stage(progress, "networks", count)
        for family in _without_collector(missing):
            self.entries[family] = []
            for name in self.families[family]:
                built = _build(self.library, [name])
                self.entries[family] += [entry for entry, _ in built]
                stage.advance()
        return bool(missing)

    def _stage(self, progress: ProgressCallback, what: str, count: int) -> StageProgress:
        return StageProgress(progress if count else silent, f"{self.library} {what}", count)

    def save(self) -> None:
        """Write the index where it is found again; not being able to is no error."""
        document = {
            "schema_version": SCHEMA,
            "library": self.library,
            "version": self.version,
            "families": self.families,
            "templates": {name: sorted(found) for name, found in self.templates.items()},
            "entries": {name: [asdict(e) for e in found] for name, found in self.entries.items()},
        }
        target = _file(self.library, self.version)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, json.dumps(document, separators=(",", ":")).encode())
        except OSError:
            return


def open_index(library: str, families: Callable[[], dict[str, list[str]]]) -> Index | None:
    """The index of an installed library; ``None`` where it is not installed.

    Args:
        library: ``torchvision`` or ``timm``.
        families: lists its networks; called only where no intact index is kept.
    """
    found = installed_version(library)
    if found is None:
        return None
    try:
        document = json.loads(_file(library, found).read_bytes())
        return _parse(document, library, found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        # Absent, or damaged by whatever else writes there: it is built again.
        return Index(library, found, families())


def _without_collector(families: list[str]) -> Iterator[str]:
    """The families, with the garbage collector off meanwhile: it takes half of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield from families
    finally:
        if collecting:
            gc.enable()


def _build(library: str, names: list[str]) -> list[tuple[Entry, frozenset[str]]]:
    from lrq_deploy.inspection.meta_build import build_entries

    return list(build_entries(library, names))


def _file(library: str, library_version: str) -> Path:
    return cache_directory() / f"architectures-{library}-{library_version}.json"


def _parse(document: Any, library: str, library_version: str) -> Index:
    stated = (document["schema_version"], document["library"], document["version"])
    if stated != (SCHEMA, library, library_version):
        raise ValueError(_NOTHING)
    return Index(
        library,
        library_version,
        {str(name): _texts(names) for name, names in document["families"].items()},
        {str(name): frozenset(_texts(found)) for name, found in document["templates"].items()},
        {str(name): [_entry(e) for e in found] for name, found in document["entries"].items()},
    )


def _texts(values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(_NOTHING)
    return values


def _entry(document: Any) -> Entry:
    lists = {name: tuple(_texts(document[name])) for name in ("class_tensors", "tops")}
    entry = Entry(**{**document, **lists})
    texts = (entry.name, entry.names, entry.shapes, entry.body_names, entry.body_shapes)
    if not all(isinstance(text, str) for text in texts) or not isinstance(entry.num_classes, int):
        raise ValueError(_NOTHING)
    return entry
