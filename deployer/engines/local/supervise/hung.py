"""Prove that a server hangs: it runs, answers nothing and computes nothing.

A server whose threads all wait for slow clients, or that computes on every core, may
leave ``/health`` unanswered for a while, and ending it would cut its clients.  So
silence alone proves nothing: a server counts as hung when it leaves every question
unanswered for `PROOF_SECONDS` and uses next to no processor time meanwhile.
llama-server closes an idle connection after 5 s, which the proof outlasts.
"""

import time
from contextlib import suppress
from typing import Final

import psutil

from deployer.engines.local.supervise.health import answers
from deployer.engines.local.supervise.process import Running, wait_for_end

PROOF_SECONDS: Final = 8.0
_ASK_SECONDS: Final = 2.0
_LONGEST_PAUSE: Final = 0.5
_IDLE_SHARE: Final = 0.02
"""Of one core; a server that generates uses more, also with all layers on a GPU."""


def why_hung(
    running: Running, url: str, source_address: str, *, proof: float = PROOF_SECONDS
) -> str:
    """Return how a server hangs; empty where it answers, works or has ended.

    Returns at the first answer, and after `proof` seconds at the latest.
    """
    begun, used = time.monotonic(), _processor_seconds(running)
    while (left := begun + proof - time.monotonic()) > 0:
        if answers(running, url, source_address, min(left, _ASK_SECONDS)):
            return ""
        if wait_for_end(running, max(0.0, min(left, _LONGEST_PAUSE))) is not None:
            return ""
    if _processor_seconds(running) - used > _IDLE_SHARE * proof:
        return ""
    state = "stopped by a signal" if _is_stopped(running) else "without any work"
    return f"pid {running.pid} hangs: no answer on /health for {proof:g} s, {state}"


def _processor_seconds(running: Running) -> float:
    with suppress(psutil.Error):
        times = psutil.Process(running.pid).cpu_times()
        return float(times.user + times.system)
    return 0.0


def _is_stopped(running: Running) -> bool:
    with suppress(psutil.Error):
        status: str = psutil.Process(running.pid).status()
        return status == psutil.STATUS_STOPPED
    return False
