"""Where ``build`` may write, whatever it builds."""

import os
from pathlib import Path

import pytest
from support.bundles import bundle_of
from support.frozen_graphs import residual_student

from lrq_deploy.errors import OutputError
from lrq_deploy.export.bundle.folder import Bundle, load_bundle
from lrq_deploy.export.bundle.output_file import check_output_file
from lrq_deploy.export.derived import older_runtime
from lrq_deploy.export.derived.older_runtime import write_for_runtime
from lrq_deploy.export.derived.preoptimized import preoptimize
from lrq_deploy.export.runtime.version import OLDEST

pytestmark = pytest.mark.unit


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return bundle_of(residual_student(4, 4, blocks=(1,)), tmp_path / "net")


def write_older(bundle: Bundle, out: Path, force: bool) -> None:
    write_for_runtime(bundle, OLDEST, out, force)


@pytest.mark.parametrize("write", [preoptimize, write_older])
@pytest.mark.parametrize("force", [False, True])
def test_no_file_of_the_bundle_is_replaced(bundle: Bundle, write: object, force: bool) -> None:
    for name in ("manifest.json", *bundle.manifest.files):
        with pytest.raises(OutputError, match="must not be a file of the bundle") as caught:
            write(bundle, bundle.path / name, force)  # type: ignore[operator]
        assert caught.value.remedy == "choose another --out, outside the bundle"
    load_bundle(bundle.path)


def test_other_ways_to_a_file_of_the_bundle_are_seen(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "folder").symlink_to(bundle.path)
    blob = tmp_path / "blob"
    (bundle.path / "model.onnx").replace(blob)
    (bundle.path / "model.onnx").symlink_to(blob)
    beside = bundle.path / ".." / "net" / "model.onnx"
    for out in (tmp_path / "folder" / "model.onnx", beside, blob, bundle.path / "model.onnx"):
        with pytest.raises(OutputError, match="must not be a file of the bundle"):
            check_output_file(out, bundle, force=True)
    # To replace a link replaces nothing else.
    (tmp_path / "link").symlink_to(blob)
    check_output_file(tmp_path / "link", bundle, force=True)
    check_output_file(bundle.path / "new.onnx", bundle, force=False)


@pytest.mark.parametrize("write", [preoptimize, write_older])
@pytest.mark.parametrize("force", [False, True])
def test_each_refusal_has_a_remedy_that_works(
    bundle: Bundle, tmp_path: Path, write: object, force: bool
) -> None:
    for out, text in {
        tmp_path: f"must be a file; got the folder {tmp_path}; name a file in it",
        tmp_path / "no" / "sub" / "x.onnx": f"is missing; make the folder {tmp_path}/no/sub, or",
        Path(os.devnull): "must be a file; got /dev/null, which is none; choose another --out",
    }.items():
        with pytest.raises(OutputError, match=text):
            write(bundle, out, force)  # type: ignore[operator]


def test_a_name_that_is_too_long_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="choose another --out"):
        preoptimize(bundle, tmp_path / ("x" * 300))


def test_nothing_is_converted_before_the_place_is_checked(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(older_runtime, "to_onnx")
    with pytest.raises(OutputError):
        write_older(bundle, tmp_path, force=True)
