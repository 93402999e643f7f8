"""Signals: the first asks, and waits where something is to be kept; a second ends the process."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from lrq_deploy.resume.stop_request import RunStopped, StopRequest, stop_on_signals

pytestmark = pytest.mark.unit

DEFERRING = """
import time
from lrq_deploy.resume.stop_request import stop_on_signals
with stop_on_signals() as request:
    request.deferred = True
    print("ready", flush=True)
    while request.number is None:
        time.sleep(0.01)
    print("asked", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_what_keeps_nothing(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(RunStopped, match=number.name) as caught, stop_on_signals():
        os.kill(os.getpid(), number)
    assert caught.value.number == number
    assert signal.getsignal(number) is before


def test_a_signal_waits_for_what_is_to_be_kept() -> None:
    with stop_on_signals() as request:
        request.deferred = True
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.number == signal.SIGTERM
        with pytest.raises(RunStopped):
            request.obey()


def test_a_second_signal_ends_the_process_at_once() -> None:
    arguments = [sys.executable, "-c", DEFERRING]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for word in ("ready", "asked"):
            assert process.stdout.readline().strip() == word
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == -signal.SIGINT


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_on_signals() as request:
            os.kill(os.getpid(), signal.SIGINT)
            assert request.number is None
            request.deferred = True
            os.kill(os.getpid(), signal.SIGTERM)
            assert request.number == signal.SIGTERM
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_are_left_alone() -> None:
    found: list[StopRequest] = []

    def elsewhere() -> None:
        with stop_on_signals() as request:
            found.append(request)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found[0].number is None
    assert signal.getsignal(signal.SIGINT) is before
