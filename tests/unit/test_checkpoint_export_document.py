"""Documents of archives: what deserializing would evaluate or import is told beforehand."""

import json

import pytest

from lrq_deploy.checkpoint.export_document import check_document

pytestmark = pytest.mark.unit

SYMBOL = "Symbol('s77', positive=True, integer=True)"


@pytest.mark.parametrize("text", ["4", "s0*2 - 1", SYMBOL, f"Max(1, {SYMBOL}/2)", "-s0 < 3"])
def test_sizes_of_known_parts_are_understood(text: str) -> None:
    assert check_document({"dims": [{"as_expr": {"expr_str": text}}]}) == ""


@pytest.mark.parametrize(
    "text",
    [
        "+".join(["s0"] * 1000),
        "_s0",
        "__builtins__",
        "eval(1)",
        "Symbol('a b')",
        "Symbol('s0').name",
        "s0[0]",
        "[s0]",
        "lambda: 1",
        "s0 if s1 else 2",
        "2 **",
        "(" * 300 + "1" + ")" * 300,
    ],
)
def test_other_sizes_are_named(text: str) -> None:
    problem = check_document({"dims": [{"as_expr": {"expr_str": text}}]})
    assert problem.startswith("the size expression")
    assert len(problem) < 150


def structure(kind: str | None, context: object) -> str:
    leaf: dict[str, object] = {"type": None, "context": None, "children_spec": []}
    return json.dumps([1, {"type": kind, "context": context, "children_spec": [leaf]}])


@pytest.mark.parametrize(
    ("kind", "context", "understood"),
    [
        ("builtins.tuple", None, True),
        ("builtins.dict", '["image", 3]', True),
        ("builtins.dict", '[{"__enum__": true, "fqn": "os.Kind", "name": "A"}]', False),
        ("builtins.dict", '"image"', False),
        ("builtins.dict", "image", False),
        ("builtins.dict", 3, False),
        ("os.system", None, False),
    ],
)
def test_only_containers_with_plain_keys_are_understood(
    kind: str, context: object, understood: bool
) -> None:
    problem = check_document({"in_spec": structure(kind, context)})
    assert (problem == "") == understood
    assert understood or problem.startswith("the input or output structure")


@pytest.mark.parametrize(
    ("target", "understood"),
    [
        ("torch.ops.aten.conv2d.default", True),
        ("_operator.add", True),
        ("torch.ops.aten.from_file.default", False),
        ("torch.ops.aten.save.default", False),
        ("torch.ops.other.conv2d.default", False),
        ("os.system", False),
    ],
)
def test_only_operators_that_stay_with_their_tensors_are_understood(
    target: str, understood: bool
) -> None:
    assert (check_document({"nodes": [{"target": target}]}) == "") == understood
