"""Only silence without work proves that a server hangs."""

import os
import signal

import pytest

from deployer.engines.local.supervise.health import why_hung
from tests.engines.local.conftest import Start

PROOF = 2.0


def url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def test_a_server_that_accepts_and_never_answers_hangs(
    listening: Start, port: int
) -> None:
    why = why_hung(listening("--deadlock"), url(port), "", proof=PROOF)
    assert why.endswith("hangs: no answer on /health for 2 s, without any work")


def test_a_server_that_is_stopped_by_a_signal_hangs(
    listening: Start, port: int
) -> None:
    running = listening()
    os.kill(running.pid, signal.SIGSTOP)
    why = why_hung(running, url(port), "", proof=PROOF)
    assert why.endswith("no answer on /health for 2 s, stopped by a signal")


def test_a_server_that_computes_does_not_hang(listening: Start, port: int) -> None:
    assert why_hung(listening("--busy"), url(port), "", proof=PROOF) == ""


@pytest.mark.parametrize("words", [(), ("--ready", "never")])
def test_a_server_that_answers_whatever_does_not_hang(
    listening: Start, port: int, words: tuple[str, ...]
) -> None:
    assert why_hung(listening(*words), url(port), "", proof=600) == ""


def test_a_server_that_ends_meanwhile_does_not_hang(
    listening: Start, port: int
) -> None:
    running = listening("--deadlock")
    os.kill(running.pid, signal.SIGKILL)
    assert why_hung(running, url(port), "", proof=600) == ""
