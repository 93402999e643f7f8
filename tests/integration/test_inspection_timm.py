"""The whole of timm, from an empty cache."""

from pathlib import Path

import pytest
import torch

from lrq_deploy.inspection.inspect import inspect_model
from lrq_deploy.loading import load_model
from lrq_deploy.options import QuantizeOptions

pytestmark = pytest.mark.integration


def test_a_timm_name_is_found_and_quantize_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm = pytest.importorskip("timm")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    network = timm.create_model("mobilenetv3_small_050", num_classes=3).eval()
    path = tmp_path / "weights.dat"
    torch.save({"state_dict": network.state_dict()}, path)
    found = inspect_model(path)
    assert found.match.chosen is not None
    assert found.match.chosen.spec == "timm:mobilenetv3_small_050"
    loaded = load_model(QuantizeOptions(model=path, out=tmp_path / "out"))
    assert loaded.name == "mobilenetv3_small_050"
    assert loaded.origin.endswith("recognised as timm:mobilenetv3_small_050")
    images = torch.randn(2, *loaded.input_shape)
    assert isinstance(loaded.program, torch.nn.Module)
    with torch.no_grad():
        assert torch.equal(loaded.program(images), network(images))
