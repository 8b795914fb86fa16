"""How long all gates take on the tiny model, one after the other and side by side.

Both ways are run in turn against one real llama-server, so that the machine's mood hits
both alike; what counts is the ratio.  The tiny model answers in milliseconds, so the
gates that run alone and the client's own work decide; on a GPU the shared ones gain.

    python -m benchmarks.gates PATH/TO/llama-server
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from deployer.core.values import JsonValue
from deployer.core.verdict import Outcome, Verdict
from deployer.gates import GATES
from deployer.gates.runner import GateRequest, run_gates
from deployer.gates.target import Process, Target
from tests.gates.checking import DATA, section
from tests.gates.real_server import KEY, serving
from tests.models import tiny

ROUNDS = 5
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


def main(binary: Path) -> None:
    """Print the medians of both ways, and their ratio."""
    with tempfile.TemporaryDirectory() as name:
        model, projector = Path(name) / "tiny.gguf", Path(name) / "mmproj.gguf"
        tiny.write(model, projector)
        options = (*OPTIONS, "--alias", "tiny", "--mmproj", str(projector))
        with serving(binary, model, *options) as url:
            warm = run(url, 1)
            times = measure(url)
    report(times)
    print("slowest of the first run:")
    for verdict in sorted(warm, key=lambda verdict: -verdict.seconds)[:6]:
        print(f"  {verdict.gate:<16} {verdict.seconds:6.2f} s")


def measure(url: str) -> Mapping[str, list[float]]:
    """Seconds of each round of both ways, in turn."""
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(ROUNDS):
        order = tuple(WAYS)[:: 1 if number % 2 else -1]
        for way in order:
            begun = time.perf_counter()
            verdicts = run(url, WAYS[way])
            times[way].append(time.perf_counter() - begun)
            tell_troubles(verdicts)
    return times


def run(url: str, jobs: int | None) -> Sequence[Verdict]:
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


def tell_troubles(verdicts: Sequence[Verdict]) -> None:
    """What did not pass: a time of it means nothing."""
    for verdict in verdicts:
        if verdict.outcome is not Outcome.PASS:
            print(f"{verdict.gate}: {verdict.outcome}: {verdict.because}")


def report(times: Mapping[str, list[float]]) -> None:
    """Medians, the spread, and each as a share of the first."""
    first = statistics.median(next(iter(times.values())))
    print(f"{len(GATES)} gates, {SLOTS} slots, {ROUNDS} rounds, {os.cpu_count()} cores")
    for way, seconds in times.items():
        median = statistics.median(seconds)
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(f"{way:<18} {median:6.2f} s  ({spread})  {median / first:5.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
