"""The bundle: the one directory that leaves the project, whole, hashed and readable again."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from lrq_deploy import __version__, classify
from lrq_deploy.errors import BundleError
from lrq_deploy.export.bundle.image_grid import grid_png
from lrq_deploy.export.bundle.manifest import MANIFEST_NAME, FileRecord, Manifest
from lrq_deploy.export.bundle.output_directory import check_output, publish
from lrq_deploy.export.bundle.own_document import regular_bytes
from lrq_deploy.export.bundle.student_file import check_answers, read_student, student_bytes
from lrq_deploy.student.frozen import QuantizedModel

__all__ = [
    "CLASSIFY_NAME",
    "GRID_NAME",
    "STUDENT_NAME",
    "Bundle",
    "check_output",
    "load_bundle",
    "write_bundle",
]

STUDENT_NAME = "student.safetensors"
GRID_NAME = "synthetic.png"
CLASSIFY_NAME = "classify.py"
_LIBRARIES = ("torch", "onnx", "onnxruntime", "onnx-ir", "onnxscript", "numpy")


@dataclass(frozen=True)
class Bundle:
    """A bundle on the disk.

    Attributes:
        path: the directory.
        manifest: its checked contents.
    """

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """Path of a file of the bundle.

        Raises:
            BundleError: the bundle has no such file.
        """
        if name not in self.manifest.files:
            raise BundleError(
                "the bundle must hold the file",
                f"{name} is missing; it has {', '.join(sorted(self.manifest.files))}",
                "write the bundle again with the target that needs it",
            )
        return self.path / name

    def beside(self, ending: str) -> Path:
        """Path of a file beside the directory, whose own files never change.

        Args:
            ending: behind the name of the directory.
        """
        # "..", which absolute() keeps, is no name.
        folder = self.path.resolve() if ".." in self.path.parts else self.path.absolute()
        return folder.with_name(f"{folder.name}{ending}")

    def model(self) -> QuantizedModel:
        """The student, rebuilt from its file.

        Raises:
            BundleError: the file does not hold a student that answers, or not the one of the
                manifest.
        """
        model = read_student(self.file(STUDENT_NAME))
        for name, value in _facts(model).items():
            stated = getattr(self.manifest, name)
            # Older manifests state fewer fields.
            if (stated if not isinstance(value, dict) else {**value, **stated}) != value:
                raise BundleError(
                    f"{STUDENT_NAME} must hold the student of which {MANIFEST_NAME} speaks",
                    f"one with another {name}",
                    "get the bundle again from where it was made",
                )
        check_answers(self.path / STUDENT_NAME, model)
        return model


def write_bundle(
    out: Path,
    model: QuantizedModel,
    graphs: Mapping[str, bytes],
    synthetic: Tensor,
    seed: int,
    options: Mapping[str, Any],
    metrics: Mapping[str, Any],
    force: bool = False,
    created: datetime | None = None,
    class_names: Sequence[str] = (),
) -> Bundle:
    """Write a bundle atomically; the same arguments give the same bytes.

    Args:
        out: directory to create.
        model: the student.
        graphs: serialised ONNX graphs by file name, for instance ``model.onnx``, and other files
            that shall be in the bundle.
        synthetic: normalised images ``[N, C, H, W]``, N at least 1; the first 64 are shown.
        seed: of the run.
        options: what the user asked for, as plain values.
        metrics: all figures, as plain values; finite numbers only.
        force: replace a bundle at ``out``.
        created: time in the manifest; now, if not given.
        class_names: in the order of the logits, or none where they are not known.

    Raises:
        OutputError: see ``check_output``.
        ExportError: the student cannot be stored.
        TypeError: an option or a metric is no plain value.
        ValueError: one is not finite.
    """
    files = {
        **graphs,
        STUDENT_NAME: student_bytes(model),
        GRID_NAME: grid_png(synthetic, model.preprocessing),
    }
    if model.input_shape[0] in classify.CHANNELS:
        files[CLASSIFY_NAME] = Path(classify.__file__).read_bytes()
    manifest = Manifest(
        created=(created or datetime.now(UTC)).isoformat(timespec="seconds"),
        versions=_versions(),
        **_facts(model),
        seed=seed,
        options=_plain(options),
        metrics=_plain(metrics),
        files={name: FileRecord.of(data) for name, data in sorted(files.items())},
        class_names=tuple(class_names),
    )
    publish(out, {**files, MANIFEST_NAME: manifest.to_bytes()}, force)
    return Bundle(out, manifest)


def load_bundle(path: str | Path) -> Bundle:
    """Open a bundle and check every file against its hash.

    Args:
        path: the directory.

    Raises:
        BundleError: not a bundle, another schema, a missing file or a changed one.
    """
    path = Path(path)
    manifest = Manifest.read(path)
    for name, record in manifest.files.items():
        if Path(name).name != name:
            raise BundleError(
                "files of a bundle must lie in its directory", repr(name), "get it again"
            )
        try:
            found = FileRecord.of(regular_bytes(path / name))
        except (OSError, ValueError) as error:  # the latter where it is no name of a file
            raise BundleError(
                "every file of the manifest must be there",
                f"{name!r:.80}: {getattr(error, 'strerror', None) or error}",
                "get the bundle again from where it was made",
            ) from error
        if found != record:
            raise BundleError(
                "every file must have the SHA-256 of the manifest",
                f"{name} with {found.sha256[:12]}, {found.size_bytes} bytes",
                "get the bundle again from where it was made, or write it again",
            )
    return Bundle(path, manifest)


def _facts(model: QuantizedModel) -> dict[str, Any]:
    """What both the manifest and the student say of a network."""
    return {
        "name": model.name,
        "teacher_fingerprint": model.teacher_fingerprint,
        "scheme": _plain(asdict(model.scheme)),
        "input_shape": model.input_shape,
        "num_classes": model.num_classes,
        "preprocessing": _plain(asdict(model.preprocessing)),
    }


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as they will be read again."""
    result: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
    return result


def _versions() -> dict[str, str]:
    found = {name: version(name) for name in _LIBRARIES}
    return {"lrq-deploy": __version__, "python": platform.python_version(), **found}
