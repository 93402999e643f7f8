"""The program in every bundle: it reads images as the figures did, and needs no torch."""

import ast
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.bundles import bundle_of
from support.frozen_graphs import residual_student

from lrq_deploy import classify
from lrq_deploy.classify import main, normalise
from lrq_deploy.export.bundle import CLASSIFY_NAME, Bundle
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


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["--help"], 0)])
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
