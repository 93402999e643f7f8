"""Keys of stages: they follow every input and the code, and nothing else."""

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

from lrq_deploy.resume.stage_key import code_digest, stage_key

pytestmark = pytest.mark.unit


def test_the_order_of_inputs_does_not_matter() -> None:
    assert stage_key({"a": 1, "b": (2, 3)}) == stage_key({"b": [2, 3], "a": 1})
    assert stage_key({"a": 1}) != stage_key({"a": 1.5})


@pytest.mark.parametrize(
    ("name", "comes_in"),
    [
        ("lrq_deploy.calibration.synthesize", True),
        ("lrq_deploy.method.images.statistics_loss", True),
        ("lrq_deploy.method.images.attention", True),
        ("lrq_deploy.method.fitting.student_training", False),
        ("lrq_deploy.method.recipe", False),
        ("lrq_deploy.progress", False),
    ],
)
def test_the_code_is_all_that_a_stage_imports(
    name: str, comes_in: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = "lrq_deploy.calibration.synthesize"
    before = code_digest(stage)
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    changed = Path(spec.origin).read_text(encoding="utf-8") + "\nCHANGED = 1\n"
    tree, parse = ast.parse(changed), ast.parse

    def with_change(source: str) -> ast.AST:
        return tree if source + "\nCHANGED = 1\n" == changed else parse(source)

    monkeypatch.setattr(ast, "parse", with_change)
    assert (code_digest(stage) != before) == comes_in
