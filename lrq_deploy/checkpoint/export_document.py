"""Which graphs of a ``torch.export`` archive may be deserialized: known operators and sizes."""

import ast
import json
import re
from typing import Any, Final

__all__ = ["check_document"]

_NAMESPACES: Final = "aten|prims|torchvision|quantized_decomposed|lrq"
_OPERATORS: Final = re.compile(
    rf"torch\.ops\.(?:{_NAMESPACES})\.(?:_?[A-Za-z]\w*|__(?:and|or|xor)__)\.[A-Za-z]\w*"
    r"|torch\.ops\.higher_order\.(?:wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|torch\.sym_(?:int|float|max|min|not|ite|sum|sqrt)"
    r"|torch\._sym_sqrt"
    r"|torch\._C\._set_grad_enabled|torch\._check"
    r"|_operator\.(?:add|sub|mul|floordiv|truediv|mod|pow|neg|getitem|eq|ne|lt|le|gt|ge|and_|or_)"
    r"|math\.(?:ceil|floor|trunc|sqrt)"
)
# Operators of ATen that reach beyond their tensors.
_FORBIDDEN_OPERATORS: Final = re.compile(r"torch\.ops\.aten\.(?:from_file|save|load)\b")
_STRUCTURES: Final = frozenset(
    {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
)
_SIZE_NAMES: Final = frozenset(
    {
        *("Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Max", "Min", "Abs", "Mod"),
        *("PythonMod", "FloorDiv", "CleanDiv", "CeilDiv", "CeilToInt", "FloorToInt"),
        *("IntTrueDiv", "FloatTrueDiv", "ModularIndexing", "TruncToInt", "TruncToFloat"),
        *("RoundToInt", "ToFloat", "Where", "Identity", "ceiling", "floor", "And", "Or", "Not"),
        *("Eq", "Ne", "Lt", "Le", "Gt", "Ge", "Equality", "Unequality", "StrictLessThan"),
        *("LessThan", "StrictGreaterThan", "GreaterThan"),
    }
)
_SIZE_NODES: Final = (
    ast.Expression,
    ast.Call,
    ast.keyword,
    ast.Name,
    ast.Load,
    ast.Constant,
    ast.UnaryOp,
    ast.USub,
    ast.Not,
    ast.BinOp,
    ast.Add,
    ast.Sub,
    ast.Mult,
    ast.Div,
    ast.Compare,
    ast.Eq,
    ast.NotEq,
    ast.Lt,
    ast.LtE,
    ast.Gt,
    ast.GtE,
)
_SYMBOL: Final = re.compile(r"[A-Za-z_]\w{0,63}")
_SIZE_LENGTH_MAX: Final = 2000


def check_document(document: Any) -> str:
    """Say what in a JSON document of an archive is not understood; empty when all is.

    Looked at: operators to call, size expressions, names of symbols, and the structure of
    inputs and outputs, because deserializing evaluates or imports them.
    """
    pending: list[tuple[str, Any]] = [("", document)]
    while pending:
        key, value = pending.pop()
        problem = _check_value(key, value)
        if problem:
            return problem
        if isinstance(value, dict):
            pending.extend(value.items())
        elif isinstance(value, list):
            pending.extend((key, item) for item in value)
    return ""


def _check_value(key: str, value: Any) -> str:
    if isinstance(value, str):
        if key in ("target", "as_operator") and not _is_operator(value):
            return f"the operator {value[:100]!r}"
        if key == "expr_str" and not _is_size(value):
            return f"the size expression {value[:100]!r}"
        if key.endswith("_spec") and not _is_structure(value):
            return f"the input or output structure {value[:100]!r}"
    if key == "range_constraints" and isinstance(value, dict):
        for symbol in value:
            if not _is_size(symbol):
                return f"the size name {symbol[:100]!r}"
    return ""


def _is_operator(target: str) -> bool:
    return bool(_OPERATORS.fullmatch(target)) and not _FORBIDDEN_OPERATORS.match(target)


def _is_size(text: str) -> bool:
    """Whether sympy, which evaluates the text as Python, can only build a size from it."""
    if len(text) > _SIZE_LENGTH_MAX:
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(_is_size_node(node) for node in ast.walk(tree))


def _is_size_node(node: ast.AST) -> bool:
    if not isinstance(node, _SIZE_NODES):
        return False
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _SIZE_NAMES
    if isinstance(node, ast.Constant):
        # Symbol('s77') is the only string; sympy would parse any other again.
        return isinstance(node.value, int | float) or (
            isinstance(node.value, str) and bool(_SYMBOL.fullmatch(node.value))
        )
    if isinstance(node, ast.Name):
        return bool(_SYMBOL.fullmatch(node.id)) and not node.id.startswith("_")
    return True


def _is_structure(text: str) -> bool:
    """Whether a pytree description holds only containers that need no import."""
    if not text:
        return True
    try:
        pending = [json.loads(text)]
    except (ValueError, RecursionError):
        return False
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if value.get("type") not in _STRUCTURES or not _is_plain_context(value):
                return False
            pending.extend(value.get("children_spec") or [])
        elif isinstance(value, list):
            pending.extend(value)
        elif not isinstance(value, int):
            return False
    return True


def _is_plain_context(structure: dict[str, Any]) -> bool:
    """Keys of a dict, as JSON text, may be strings and numbers; an enum would be imported."""
    context = structure.get("context")
    if context is None:
        return True
    try:
        keys = json.loads(context)
    except (ValueError, TypeError, RecursionError):
        return False
    return keys is None or (
        isinstance(keys, list) and all(isinstance(key, str | int | float) for key in keys)
    )
