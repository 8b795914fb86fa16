"""How long all gates take on the tiny model, one after the other and side by side.

Both ways are run in turn against one real llama-server, so that the machine's mood hits
both alike; what counts is the ratio.  The tiny model answers in milliseconds, so the
gates that run alone and the client's own work decide; on a GPU the shared ones gain.
"""

import os
import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from operator import truediv
from urllib.parse import urlsplit

import psutil

from benchmarks.applied import llama_server
from benchmarks.result import Result, Run, Table
from deployer.gates import GATES
from deployer.gates.harness.client import Process, Target
from deployer.gates.harness.runner import GateRequest, run_gates
from deployer.planning.events import Outcome, Verdict
from deployer.stack.fields.values import JsonValue
from tests.gates.checking import DATA, section
from tests.gates.real_server import KEY, serving
from tests.models import tiny

SLOTS = 4
STATED: Mapping[str, JsonValue] = {
    "llama_cpp.tag": "b10434",
    "llama_cpp.commit": "7e4c0a9",
    "server.ctx_size": 16384,
    "server.parallel": SLOTS,
    "server.metrics": True,
    "model.alias": "tiny",
    "model.path": "tiny.gguf",
    "model.mmproj": "mmproj.gguf",
}
OPTIONS = ("--ctx-size", "16384", "--parallel", str(SLOTS), "--metrics")
WAYS: Mapping[str, int | None] = {"--jobs 1": 1, "as many as slots": None}


def gates(run: Run) -> Result:
    """All gates in both ways, a round after the other."""
    model, projector = run.folder / "tiny.gguf", run.folder / "mmproj.gguf"
    tiny.write(model, projector)
    options = (*OPTIONS, "--alias", "tiny", "--mmproj", str(projector))
    with serving(llama_server(run.cache), model, *options) as url:
        warm = judge(url, 1)
        times, troubles = measure(url, run)
    return _result(times, warm, troubles)


def measure(url: str, run: Run) -> tuple[Mapping[str, list[float]], set[str]]:
    """Seconds of each round of both ways, in turn; and what did not pass."""
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    troubles: set[str] = set()
    for number in range(run.rounds):
        run.say(f"round {number + 1} of {run.rounds}")
        order = tuple(WAYS)[:: 1 if number % 2 else -1]
        for way in order:
            begun = time.perf_counter()
            verdicts = judge(url, WAYS[way])
            times[way].append(time.perf_counter() - begun)
            troubles |= {
                f"{it.gate}: {it.outcome}: {it.because}"
                for it in verdicts
                if it.outcome is not Outcome.PASS
            }
    return times, troubles


def judge(url: str, jobs: int | None) -> Sequence[Verdict]:
    """All gates once."""
    server = psutil.Process(listener(urlsplit(url).port or 0))
    process = Process(pid=server.pid, memory=server.memory_info().rss)
    target = Target(
        url,
        api_key=KEY,
        api_key_name="KEY",
        expects=STATED,
        build=10434,
        process=process,
        folder=DATA,
    )
    options = {"tools": {"expect": "known_limits"}}
    requests = [GateRequest(g, section(g, **options.get(g, {}))) for g in GATES]
    return run_gates(requests, target, say=lambda _event: None, jobs=jobs)


def listener(port: int) -> int:
    """The process that listens on a port."""
    return next(
        one.pid
        for one in psutil.net_connections("tcp4")
        if one.status == psutil.CONN_LISTEN and one.laddr[1:] == (port,) and one.pid
    )


def _result(
    times: Mapping[str, Sequence[float]],
    warm: Sequence[Verdict],
    troubles: Collection[str],
) -> Result:
    first, *_ = times.values()
    rows = tuple(
        (
            way,
            f"{statistics.median(seconds):.2f} ({min(seconds):.2f}-{max(seconds):.2f})",
            f"{statistics.median(map(truediv, seconds, first)):.2f}",
        )
        for way, seconds in times.items()
    )
    slowest = sorted(warm, key=lambda verdict: -verdict.seconds)[:6]
    return Result(
        title="All gates, one after the other and side by side",
        about=(
            (
                f"{len(GATES)} gates on the tiny model of the tests, {SLOTS} slots,"
                f" {len(first)} rounds, {os.cpu_count()} cores."
            ),
            (
                "It answers in milliseconds, so the gates that run alone and the client"
                " decide; on a GPU the shared ones gain."
            ),
        ),
        tables=(
            Table(("", "seconds (spread)", "× one after the other"), rows),
            Table(
                ("", "seconds"),
                tuple((it.gate, f"{it.seconds:.2f}") for it in slowest),
                "The slowest, alone",
            ),
        ),
        notes=tuple(
            f"Its time means nothing, it did not pass: {it}" for it in troubles
        ),
        samples={way: list(seconds) for way, seconds in times.items()},
    )
