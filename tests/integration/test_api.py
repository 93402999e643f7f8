"""The Python API: the documented example runs, and importing the package stays cheap."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lrq_deploy
from lrq_deploy.errors import OptionError

pytestmark = pytest.mark.integration

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "api.md"


def test_the_documented_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/api.md", "exec"), {"__name__": "example"})
    graph, agreement, shape = capsys.readouterr().out.splitlines()[-3:]
    assert (tmp_path / graph).is_file()
    assert 0 <= float(agreement) <= 1
    assert shape == "torch.Size([1, 10])"
    assert lrq_deploy.load_bundle(tmp_path / "digits-w4a4").manifest.name == "Sequential"


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, lrq_deploy; lrq_deploy.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_completion_knows_the_public_names_before_they_are_loaded() -> None:
    code = "import sys, lrq_deploy; sys.exit(not {*lrq_deploy.__all__} <= {*dir(lrq_deploy)})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_are_there_and_others_are_not() -> None:
    for name in lrq_deploy.__all__:
        assert getattr(lrq_deploy, name)
    with pytest.raises(AttributeError, match="quantise"):
        _ = lrq_deploy.quantise


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "x.pt", "bits": 9}, "2..8"),
        ({"model": "x.pt", "name": "mine"}, "in memory"),
        ({"model": "x.pt", "recipe": "slow"}, "recipe"),
        ({"model": "x.pt", "mean": (0.5,)}, "together"),
    ],
)
def test_options_are_checked_as_on_the_command_line(
    arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        lrq_deploy.quantize(**arguments)  # type: ignore[arg-type]


def test_a_network_in_memory_has_no_file_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = {"architectures": ["ResNetForImageClassification"], "model_type": "resnet"}
    about["problem_type"] = "multi_label_classification"
    (tmp_path / "config.json").write_text(json.dumps(about), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    # A margin is refused for sets of labels, before the missing shape is.
    with pytest.raises(OptionError, match="needs input_shape"):
        lrq_deploy.quantize(torch.nn.Conv2d(3, 2, 3), bits=4, margin="a2")
    with pytest.raises(OptionError, match="margin"):
        lrq_deploy.quantize("model.safetensors", bits=4, margin="a2")
