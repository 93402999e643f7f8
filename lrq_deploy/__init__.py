"""Data-free low-bit quantization of PyTorch image classifiers, to a checked integer graph."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrq_deploy.cli.api import quantize
    from lrq_deploy.export.bundle.folder import Bundle, load_bundle

__all__ = ["Bundle", "__version__", "load_bundle", "quantize"]

__version__ = "0.1.0"

_PUBLIC = {
    "Bundle": "lrq_deploy.export.bundle.folder",
    "load_bundle": "lrq_deploy.export.bundle.folder",
    "quantize": "lrq_deploy.cli.api",
}


def __getattr__(name: str) -> Any:
    # Only on first use, so that ``lrq-deploy --help`` and ``import lrq_deploy`` load no torch.
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    # Completion and help() find what is not loaded yet.
    return sorted({*globals(), *__all__})
