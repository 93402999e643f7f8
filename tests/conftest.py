"""Fixtures of every tier: threads kept low, and one small real teacher per session."""

import signal

import hypothesis
import pytest
import torch

from lrq_deploy.cli.commands.demo_network import TrainedDigits, train_digits

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

# A shell starts jobs in the background with interrupts ignored, which tests send and expect.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _few_threads() -> None:
    """Small networks run fastest on few threads, and results then agree across machines."""
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def digits_teacher(tmp_path_factory: pytest.TempPathFactory) -> TrainedDigits:
    """The network of ``lrq-deploy demo``, trained once: archive, held-out digits, accuracy."""
    return train_digits(tmp_path_factory.mktemp("digits_teacher"), seed=0)
