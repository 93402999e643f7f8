"""Where ``build`` writes: a new file, or one that may go, and never one of the bundle's own."""

import os
from pathlib import Path

from lrq_deploy.errors import OutputError
from lrq_deploy.export.bundle.folder import Bundle
from lrq_deploy.export.bundle.manifest import MANIFEST_NAME

__all__ = ["check_output_file"]


def check_output_file(out: Path, bundle: Bundle, force: bool) -> None:
    """Refuse an output file before anything is built; writes nothing.

    Raises:
        OutputError: its folder cannot be written, it is the bundle's own or no file, or it is
            there and ``force`` is not set.
    """
    # Not pathlib's questions, which raise where a name is too long or a folder is closed.
    if not os.path.isdir(out.parent) or not os.access(out.parent, os.W_OK | os.X_OK):
        missing = not os.path.exists(out.parent)
        raise OutputError(
            "--out must lie in a folder that can be written",
            f"{out}, whose folder is missing" if missing else f"{out}",
            f"make the folder {out.parent}, or choose another --out"
            if missing
            else "choose another --out",
        )
    there = os.path.exists(out)
    if there and not os.path.isfile(out):
        folder = os.path.isdir(out)
        raise OutputError(
            "--out must be a file",
            f"the folder {out}" if folder else f"{out}, which is none",
            "name a file in it" if folder else "choose another --out",
        )
    # Before the next rule, whose remedy would break the bundle.
    for name in (MANIFEST_NAME, *bundle.manifest.files):
        if _same_place(out, bundle.path / name):
            raise OutputError(
                "--out must not be a file of the bundle, which is checked against its hashes",
                f"{out}, which is its {name}",
                "choose another --out, outside the bundle",
            )
    if there and not force:
        raise OutputError(
            "--out must not exist yet",
            f"{out}",
            "choose another --out, or replace it with --force",
        )


def _same_place(out: Path, own: Path) -> bool:
    """Whether to replace ``out`` is to replace ``own``, or what it links to."""
    if out.parent.resolve() / out.name == own.parent.resolve() / own.name:
        return True
    # A link elsewhere is replaced itself; of a file, the case of its name may not matter.
    linked = os.path.islink(out) or not os.path.exists(out)
    return not linked and own.exists() and os.path.samefile(out, own)
