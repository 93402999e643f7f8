"""A stdout of another encoding: nothing is lost, and JSON stays JSON."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lrq_deploy.cli.reports.stdout import encode_everything

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("encoding", "errors", "written"),
    [
        ("ascii", "strict", rb"\u00e9 \ud83d\ude00 \udcc3"),
        ("ascii", "surrogateescape", rb"\u00e9 \ud83d\ude00 " + b"\xc3"),
        ("latin-1", "strict", b"\xe9 " + rb"\ud83d\ude00 \udcc3"),
        ("utf-8", "strict", "é 😀 ".encode() + rb"\udcc3"),
        ("ascii", "replace", b"? ? ?"),
    ],
)
def test_what_cannot_be_encoded_is_escaped(
    encoding: str, errors: str, written: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding, errors))
    encode_everything()
    sys.stdout.write("é 😀 \udcc3")
    sys.stdout.flush()
    assert raw.getvalue() == written


def test_another_stdout_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    encode_everything()
    assert isinstance(sys.stdout, io.StringIO)


@pytest.mark.parametrize("locale", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0"}], ids=["utf-8", "c"])
def test_a_path_that_stdout_cannot_encode(tmp_path: Path, locale: dict[str, str]) -> None:
    path = tmp_path / "d é" / "w.pt"
    path.parent.mkdir()
    torch.save({"x.weight": torch.zeros(2, 3)}, path)
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0", **locale}
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), **ascii_only}

    def inspected(*flags: str) -> str:
        words = [sys.executable, "-m", "lrq_deploy", "inspect", str(path), "--quiet", *flags]
        done = subprocess.run(words, capture_output=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode("ascii")

    named = json.loads(inspected("--json"))["path"]
    assert named.encode("utf-8", "surrogateescape").decode() == str(path)
    assert "lrq-deploy quantize" in inspected()
