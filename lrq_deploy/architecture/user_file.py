"""A network from the user's own Python file: ``FILE.py:FACTORY``."""

import hashlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from lrq_deploy.checkpoint.lazy import refuse_lazy
from lrq_deploy.errors import CheckpointError, OptionError

__all__ = ["build_from_file"]

_ACCEPTED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def build_from_file(path: Path, factory: str, num_classes: int | None) -> nn.Module:
    """Import ``path`` and call ``factory`` from it.

    The file may import its siblings; afterwards ``sys.path`` is as before and the siblings are
    gone from ``sys.modules``. The file itself stays there under a private name, because
    its classes refer to it.

    Args:
        path: the Python file.
        factory: a function or class in it, called with nothing but ``num_classes`` where it
            takes that.
        num_classes: ``None`` leaves it to the factory.

    Raises:
        OptionError: the file or the factory does not exist, or the factory wants more
            arguments.
        CheckpointError: the import or the call fails, or gives no ``nn.Module``, or one with layers
            of no size.
    """
    if not os.path.isfile(path):
        meant = [place for place in (Path(f"{path}.py"), _as_module(path)) if os.path.isfile(place)]
        hint = f"did you mean --arch {meant[0]}:{factory}?" if meant else ""
        raise OptionError(
            "the architecture file must exist",
            f"no file at {path}",
            hint or "check --arch FILE.py:FACTORY",
        )
    with _importable(path.resolve().parent):
        module = _import(path.resolve())
        function = _find(module, path, factory)
        arguments = _arguments(function, path, factory, num_classes)
        network = _call(function, arguments, path, factory)
    refuse_lazy(network, f"{path}:{factory}")
    return network


def _as_module(path: Path) -> Path:
    """``nets.small`` as Python would import it: ``nets/small.py``."""
    return path.parent / f"{path.name.replace('.', '/')}.py"


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    path_before, names_before = list(sys.path), set(sys.modules)
    no_bytecode = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = path_before
        sys.dont_write_bytecode = no_bytecode
        for name in set(sys.modules) - names_before:
            if not name.startswith("_lrq_arch_") and _lies_in(sys.modules[name], folder):
                del sys.modules[name]


def _lies_in(module: ModuleType, folder: Path) -> bool:
    places = [getattr(module, "__file__", None), *(getattr(module, "__path__", None) or [])]
    resolved = [Path(place).resolve() for place in places if isinstance(place, str)]
    # An environment below the user's folder belongs to Python, not to the network.
    return any(folder in p.parents and "site-packages" not in p.parts for p in resolved)


def _import(path: Path) -> ModuleType:
    name = "_lrq_arch_" + hashlib.sha256(str(path).encode()).hexdigest()[:16]
    spec = importlib.util.spec_from_loader(
        name, importlib.machinery.SourceFileLoader(name, str(path)), origin=str(path)
    )
    if spec is None or spec.loader is None:
        raise OptionError("the architecture file must be Python", str(path), "pass a .py file")
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    # The user's file may raise anything, and scripts end in SystemExit.
    except (Exception, SystemExit) as error:
        sys.modules.pop(name)
        if before is not None:
            sys.modules[name] = before
        raise CheckpointError(
            "the architecture file must import",
            f"{_told(error)} in {path}{_line_in(error, path)}",
            f"run 'python -c \"import {path.stem}\"' in its folder and repair what it reports",
        ) from error
    return module


def _find(module: ModuleType, path: Path, factory: str) -> Callable[..., Any]:
    found = getattr(module, factory, None)
    if callable(found):
        return found  # type: ignore[no-any-return]
    public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
    own = [n for n in public if getattr(vars(module)[n], "__module__", None) == module.__name__]
    names = own or public
    close = get_close_matches(factory, names, 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise OptionError(
        f"the factory must be a function or class in {path}",
        f"{factory!r}, which is {'not callable' if hasattr(module, factory) else 'not there'}",
        f"the callables of this file are: {', '.join(names) or 'none'}{hint}",
    )


def _arguments(
    function: Callable[..., Any], path: Path, factory: str, num_classes: int | None
) -> dict[str, int]:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    required = [
        name
        for name, p in parameters.items()
        if p.default is inspect.Parameter.empty
        and p.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    ]
    accepts = "num_classes" in parameters and parameters["num_classes"].kind in _ACCEPTED
    given = {"num_classes": num_classes} if accepts and num_classes is not None else {}
    lacking = [name for name in required if name not in given]
    if lacking:
        raise OptionError(
            "the factory must need no arguments but num_classes",
            f"{factory} in {path}, which needs {', '.join(lacking)}",
            "add a function without arguments that calls it",
        )
    return given


def _call(
    function: Callable[..., Any], arguments: dict[str, int], path: Path, factory: str
) -> nn.Module:
    try:
        network = function(**arguments)
    # The user's factory may raise anything.
    except (Exception, SystemExit) as error:
        raise CheckpointError(
            "the factory must build the network",
            f"{_told(error)} from {factory} in {path}{_line_in(error, path)}",
            "call it in Python and repair what it reports",
        ) from error
    if not isinstance(network, nn.Module):
        raise CheckpointError(
            "the factory must return a torch.nn.Module",
            f"{type(network).__name__} from {factory} in {path}",
            "name the function that builds the network",
        )
    return network


def _told(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no message'}"


def _line_in(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f", line {error.lineno} of {Path(error.filename or path).name}"
    frames = traceback.extract_tb(error.__traceback__)
    numbers = [frame.lineno for frame in frames if Path(frame.filename) == path.resolve()]
    return f", line {numbers[-1]}" if numbers else ""
