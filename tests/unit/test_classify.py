"""The program in every bundle: it reads images as the figures did, and needs no torch."""

import ast
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from support.bundles import bundle_of
from support.frozen_graphs import residual_student

from lrq_deploy import classify
from lrq_deploy.classify import main, normalise
from lrq_deploy.export.bundle.folder import CLASSIFY_NAME, Bundle
from lrq_deploy.export.derived.older_runtime import write_for_runtime
from lrq_deploy.images import read_image_folder

pytestmark = pytest.mark.unit

OLDEST_PYTHON = (3, 8)  # JetPack 5


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_of(residual_student(4, 4), tmp_path_factory.mktemp("classify") / "bundle")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    chance = np.random.default_rng(0)
    for index, size in enumerate([(8, 8), (31, 20), (13, 40)]):
        pixels = chance.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    return tmp_path


def test_answers_are_those_of_the_student(
    bundle: Bundle, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = bundle.model()
    images = read_image_folder(photos, model.input_shape, model.preprocessing, None)
    shares = model.logits(torch.cat(list(images.batches(4)))).softmax(1)
    assert main([str(path) for path in images.paths], bundle.path) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == [str(path) for path in images.paths]
    assert [int(line[1]) for line in lines] == shares.argmax(1).tolist()
    assert [float(line[2]) for line in lines] == pytest.approx(shares.amax(1).tolist(), abs=1e-4)


def test_every_yes_is_written_where_labels_stand_on_their_own(
    bundle: Bundle, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "model.onnx").write_bytes(bundle.file("model.onnx").read_bytes())
    document = json.loads((bundle.path / "manifest.json").read_bytes())
    document["options"]["task"] = "multilabel"
    (copy / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
    model = bundle.model()
    images = read_image_folder(photos, model.input_shape, model.preprocessing, None)
    shares = model.logits(torch.cat(list(images.batches(4)))).sigmoid()
    assert main([str(path) for path in images.paths], copy) == 0
    written = [line.split("\t")[1] for line in capsys.readouterr().out.splitlines()]
    assert written == [
        " ".join(f"{label}:{share:.4f}" for label, share in enumerate(row) if share > 0.5)
        for row in shares.tolist()
    ]


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_names_of_classes_follow_where_they_are_known(
    bundle: Bundle, photos: Path, tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "model.onnx").write_bytes(bundle.file("model.onnx").read_bytes())
    document = json.loads((bundle.path / "manifest.json").read_bytes())
    document["options"]["task"] = task
    (copy / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
    paths = [str(path) for path in sorted(photos.glob("*.png"))]
    assert main(paths, copy) == 0
    bare = capsys.readouterr().out.splitlines()
    names = [f"class no. {index}" for index in range(document["num_classes"])]
    (copy / "manifest.json").write_text(json.dumps(document | {"class_names": names}))
    assert main(paths, copy) == 0
    for line, short in zip(capsys.readouterr().out.splitlines(), bare, strict=True):
        path, *answer = short.split("\t")
        if task == "multiclass":
            expected = [*answer, names[int(answer[0])]]
        else:
            yes = answer[0].split()
            expected = [f"{part}:{names[int(part.partition(':')[0])]}" for part in yes] or [""]
        assert line.split("\t") == [path, *expected]


def test_a_broken_file_is_named_and_the_others_are_answered(
    bundle: Bundle, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.png").write_bytes((photos / "1.png").read_bytes()[:40])
    bomb = bytearray((photos / "1.png").read_bytes())
    bomb[16:24] = struct.pack(">II", 40_000, 40_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    (photos / "bomb.png").write_bytes(bomb)
    (photos / "text.png").write_text("no image", encoding="utf-8")
    broken = ("broken.png", "bomb.png", "text.png", "missing.png")
    names = [str(photos / name) for name in (*broken, "0.png")]
    assert main(names, bundle.path) == 1
    written = capsys.readouterr()
    assert [line.split("\t")[0] for line in written.out.splitlines()] == names[4:]
    assert [line.split(": ")[0] for line in written.err.splitlines()] == names[:4]


def test_another_graph_is_taken_in_place_of_the_bundle_s(
    bundle: Bundle, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = str(photos / "0.png")
    assert main([image], bundle.path) == 0
    expected = capsys.readouterr().out
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "manifest.json").write_bytes((bundle.path / "manifest.json").read_bytes())
    write_for_runtime(bundle, (1, 18), tmp_path / "older.onnx")
    assert main(["--model", str(tmp_path / "older.onnx"), image], alone) == 0
    assert capsys.readouterr().out == expected


def test_a_graph_that_does_not_load_is_one_sentence(
    bundle: Bundle,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    later = onnx.load(bundle.file("model.onnx"))
    next(node for node in later.graph.node if node.op_type == "Cast").op_type = "OfTheFuture"
    onnx.save(later, tmp_path / "later.onnx")
    monkeypatch.setattr(onnxruntime, "__version__", "1.19.2")
    assert main(["--model", str(tmp_path / "later.onnx"), str(photos / "0.png")], bundle.path) == 2
    written = capsys.readouterr()
    assert written.out == ""
    (sentence,) = written.err.splitlines()
    assert sentence.startswith(f"onnxruntime 1.19.2 does not load {tmp_path / 'later.onnx'} (")
    assert "OfTheFuture" in sentence
    assert "lrq-deploy build BUNDLE --onnxruntime 1.19 " in sentence


def test_a_missing_graph_is_one_sentence(
    bundle: Bundle, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", "missing.onnx", str(photos / "0.png")], bundle.path) == 2
    assert capsys.readouterr().err == "there is no file missing.onnx\n"


def test_a_graph_of_another_network_is_one_sentence(
    bundle: Bundle, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = onnx.load(bundle.file("model.onnx"))
    other.graph.input[0].name = "x"
    for node in other.graph.node:
        node.input[:] = ["x" if name == "input" else name for name in node.input]
    onnx.save(other, tmp_path / "net.onnx")
    assert main(["--model", str(tmp_path / "net.onnx"), str(photos / "0.png")], bundle.path) == 2
    written = capsys.readouterr()
    (sentence,) = written.err.splitlines()
    assert "net.onnx is not a graph of this bundle: it has x [3, " in sentence
    assert "instead of input [3, " in sentence
    assert written.out == ""


def test_the_images_of_a_folder_are_answered_in_order(
    bundle: Bundle, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "deep").mkdir()
    shutil.copy(photos / "0.png", photos / "deep" / "9.PNG")
    (photos / "notes.txt").write_text("none", encoding="utf-8")
    shutil.copy(photos / "0.png", photos / "._hidden.png")
    assert main([str(photos)], bundle.path) == 0
    written = capsys.readouterr()
    named = [line.split("\t")[0] for line in written.out.splitlines()]
    assert named == [str(photos / name) for name in ("0.png", "1.png", "2.png", "deep/9.PNG")]
    assert written.err == ""
    (photos / "empty").mkdir()
    assert main([str(photos / "empty")], bundle.path) == 1
    assert capsys.readouterr().err == f"{photos / 'empty'}: no image in this folder\n"


def test_pixels_that_nobody_spoke_of_are_warned_of_once(
    bundle: Bundle, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle.path, copy)
    document = json.loads((copy / "manifest.json").read_bytes())
    document["preprocessing"]["known"] = False
    (copy / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
    images = [str(photos / "0.png"), str(photos / "1.png")]
    assert main(images, copy) == 0
    written = capsys.readouterr()
    (warning,) = written.err.splitlines()
    assert warning.startswith("warning: ")
    assert "--mean and --std" in warning
    assert main(images, bundle.path) == 0
    assert capsys.readouterr() == (written.out, "")


@pytest.mark.parametrize(
    "change",
    [
        None,
        {"preprocessing": 3},
        {"input_shape": None},
        {"options": []},
        {"class_names": ["a"]},
        {"preprocessing": {"interpolation": "none"}},
    ],
)
def test_a_damaged_manifest_is_one_sentence(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle.path, copy)
    text = (copy / "manifest.json").read_text(encoding="utf-8")
    changed = text[: len(text) // 2] if change is None else json.dumps(json.loads(text) | change)
    (copy / "manifest.json").write_text(changed, encoding="utf-8")
    assert main(["x.png"], copy) == 2
    written = capsys.readouterr()
    assert written.out == ""
    (sentence,) = written.err.splitlines()
    assert sentence.startswith(f"{copy / 'manifest.json'} is damaged (")


def test_a_reader_that_has_enough_ends_it_quietly(bundle: Bundle, photos: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, str(bundle.file(CLASSIFY_NAME)), str(photos / "0.png")],
            stdout=closed,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, b"")


WRONG: list[list[str]] = [[], ["--modle", "x", "y"], ["--model"], ["--model", "x"]]


@pytest.mark.parametrize(
    ("arguments", "code"), [*((wrong, 2) for wrong in WRONG), (["--help"], 0), (["-h"], 0)]
)
def test_it_says_how_it_is_called(
    bundle: Bundle, arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments, bundle.path) == code
    assert "python classify.py IMAGE" in capsys.readouterr().out


def test_it_runs_alone_from_the_bundle(bundle: Bundle, photos: Path) -> None:
    script = bundle.file(CLASSIFY_NAME)
    alone = (
        "import runpy, sys\n"
        "for name in ('torch', 'torchvision', 'lrq_deploy', 'onnx'): sys.modules[name] = None\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [sys.executable, "-c", alone, str(script), str(photos / "0.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=photos)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{photos / '0.png'}\t")


def test_a_terminal_that_has_no_such_letter_shows_its_number(
    bundle: Bundle, photos: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle.path, copy)
    document = json.loads((copy / "manifest.json").read_bytes())
    names = [f"\N{LATIN SMALL LETTER E WITH ACUTE}{n}" for n in range(document["num_classes"])]
    (copy / "manifest.json").write_text(json.dumps(document | {"class_names": names}))
    done = subprocess.run(
        [sys.executable, str(copy / CLASSIFY_NAME), str(photos / "0.png")],
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    assert b"\t\\xe9" in done.stdout


def test_old_interpreters_of_devices_read_it() -> None:
    source = Path(classify.__file__).read_text(encoding="utf-8")
    ast.parse(source, feature_version=OLDEST_PYTHON)
    with pytest.raises(SyntaxError):
        ast.parse("match 1:\n    case 1: pass", feature_version=OLDEST_PYTHON)


def test_numpy_gives_the_bits_of_torch() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(1, 3, 1, 1)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    columns = [torch.tensor(x).reshape(1, 3, 1, 1) for x in (mean, std)]
    expected = (pixels.float() / 255 - columns[0]) / columns[1]
    found = normalise(pixels.numpy(), mean, std)
    assert found.dtype == np.float32
    assert np.array_equal(found, expected.numpy())
