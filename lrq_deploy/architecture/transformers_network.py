"""The network of a ``config.json`` of transformers, with its weights."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrq_deploy.architecture.image_processor import observe_processor
from lrq_deploy.architecture.named import Architecture
from lrq_deploy.checkpoint.transformers_config import PROCESSOR, TransformersConfig
from lrq_deploy.errors import CheckpointError, OptionError
from lrq_deploy.wording import counted

__all__ = ["load_transformers"]

_BICUBIC = 3  # as Pillow counts
_SHOWN = 5
_COUNTER = "num_batches_tracked"
_OR_ARCH = "pass --arch FILE.py:FACTORY, or quantize the weights from a folder without that file"


def load_transformers(
    config: TransformersConfig, tensors: Mapping[str, Tensor], images_known: bool
) -> Architecture:
    """Build the network and give it its weights; nothing is downloaded, and no code of theirs run.

    transformers does both: it stores some networks under other names than it builds them. As
    there, tensors that the network has no use for are left out.

    Args:
        config: beside the weights.
        tensors: of the file.
        images_known: whether the user says all of how images are read; the image processor
            beside the weights is not asked then.

    Raises:
        OptionError: transformers is not installed, or has no such network.
        CheckpointError: the files beside the weights cannot be used, or the weights do not fit.
    """
    try:
        import transformers
    except ImportError:
        raise OptionError(
            f"{config.network} needs the transformers package",
            f"{config.path} without it",
            f"install it with: python -m pip install 'lrq-deploy[transformers]', or {_OR_ARCH}",
        ) from None
    folder = config.path.parent
    with _quiet(transformers):
        network, side = _network(transformers, config, tensors)
        architecture = Architecture(network.float().eval(), config.network)
        if images_known:
            return architecture
        if (folder / PROCESSOR).is_file():
            return _as_processed(architecture, transformers, folder)
    return replace(architecture, input_shape=(3, side, side)) if side else architecture


def _network(
    transformers: Any, config: TransformersConfig, tensors: Mapping[str, Tensor]
) -> tuple[nn.Module, int | None]:
    """The network, and the side of the images that its configuration states."""
    kind = getattr(transformers, config.network, None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise OptionError(
            "the network of a config.json must be one that transformers has",
            f"{config.network} in {config.path}, and transformers {transformers.__version__}",
            _OR_ARCH,
        )
    with _reading(config.path):
        settings = transformers.AutoConfig.from_pretrained(
            config.path.parent, local_files_only=True, trust_remote_code=False
        )
    built: Any = kind
    with _reading(config.path, f"the weights must be those of the {config.network}"):
        network, report = built.from_pretrained(
            None,
            config=settings,
            state_dict=dict(tensors),
            dtype=torch.float32,
            output_loading_info=True,
        )
    missing = sorted(name for name in report["missing_keys"] if not name.endswith(_COUNTER))
    if missing:
        raise CheckpointError(
            f"the weights must be those of the {config.network} in the config.json beside them",
            f"{counted(len(missing), 'tensor')} missing: {', '.join(missing[:_SHOWN])}",
            _OR_ARCH,
        )
    side = getattr(settings, "image_size", None)
    rgb = getattr(settings, "num_channels", 3) == 3
    return network, side if isinstance(side, int) and side > 0 and rgb else None


def _as_processed(architecture: Architecture, transformers: Any, folder: Path) -> Architecture:
    """The same network with what the image processor in ``folder`` does to its images."""

    def process(image: Tensor) -> Tensor:
        pixels: Tensor = processor(image, return_tensors="pt", input_data_format="channels_first")[
            "pixel_values"
        ]
        return pixels[0]

    with _reading(folder / PROCESSOR):
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        seen = observe_processor(process)
    return replace(
        architecture,
        input_shape=(3, *seen.size),
        mean=seen.mean,
        std=seen.std,
        resize=seen.resize,
        interpolation="bicubic" if processor.resample == _BICUBIC else "bilinear",
    )


@contextlib.contextmanager
def _reading(
    path: Path, rule: str = "a file of transformers beside the weights must be usable"
) -> Iterator[None]:
    from huggingface_hub.errors import StrictDataclassError

    # What transformers and its constructors raise for numbers and names that cannot be.
    wrong = (ArithmeticError, AttributeError, ImportError, LookupError, TypeError, ValueError)
    try:
        yield
    except (*wrong, OSError, RuntimeError, StrictDataclassError) as error:
        raise CheckpointError(
            rule, f"{path}: {type(error).__name__}, {str(error)[:200]}", _OR_ARCH
        ) from error


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Its progress and its advice are about downloads and fine-tuning; they come back after."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
