"""How long the gates of a chat model take on a real one, and what they took before.

The gates of this checkout and those of the commit before the work on them began are
asked in turn, each time on a server that was just started: what one run had it read
must not be in its cache for the next.
"""

import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from benchmarks.applied import BUILD, MODEL, llama_server, weights
from benchmarks.gates import listener
from benchmarks.processes import MeasureError
from benchmarks.result import Result, Run, Table
from deployer.stack.fields.values import JsonValue
from tests.gates.real_server import KEY, serving

ROOT = Path(__file__).parents[1]
BEFORE = "c7bdb616"
"""The commit before gates asked for everything that a stack offers."""
AUTO = ("health", "props", "models", "auth", "chat", "stream", "metrics", "concurrency")
"""The gates of `gates: auto` for a chat model with a key and metrics."""
NAMED = (
    *("health", "build", "props", "models", "device", "auth", "errors", "chat"),
    *("json_schema", "stream", "metrics", "concurrency", "prompt_cache", "speed"),
    *("context", "limits", "memory"),
)
"""All that can be named of the model, which knows no tools, thinking or images."""
_ALL = "all that can be named"
SETS: Mapping[str, Sequence[str]] = {
    "`gates: auto`": AUTO,
    _ALL: NAMED,
    f"{_ALL} but `context`": [gate for gate in NAMED if gate != "context"],
}
STATED: Mapping[str, JsonValue] = {
    "llama_cpp.tag": "b10434",
    "llama_cpp.commit": "7e4c0a9",
    "server.ctx_size": 4096,
    "server.parallel": 2,
    "server.metrics": True,
    "model.alias": "gemma",
    "model.path": "model.gguf",
}
_RUN = """
import json, sys, time, typing
from deployer.gates import GATES
try:
    from deployer.gates.harness.client import Process, Target
except ImportError:
    from deployer.gates.harness.target import Process, Target
from deployer.gates.harness.runner import GateRequest, run_gates
from deployer.stack.fields.gate_options import Gates

def section(name):
    kinds = typing.get_args(Gates.model_fields[name].annotation)
    return next(it for it in kinds if it is not type(None))()

names, stated, url, key, pid = json.load(sys.stdin)
process = Process(pid=pid, memory=1)
of = dict(api_key_name="KEY", expects=stated, build=10434, process=process)
target = Target(url, api_key=key, **of)
requests = [GateRequest(it, section(it)) for it in names if it in GATES]
begun = time.perf_counter()
verdicts = run_gates(requests, target, say=lambda event: None)
seconds = time.perf_counter() - begun
wrong = [f"{it.gate}: {it.because}" for it in verdicts if it.outcome != "pass"]
print(json.dumps([seconds, {it.gate: it.seconds for it in verdicts}, wrong]))
"""
"""Runs gates with the package of either version."""


@dataclass(frozen=True, slots=True)
class Once:
    """One run of gates on a fresh server."""

    seconds: float
    cpu: float
    """CPU time of llama-server, in seconds."""
    gates: Mapping[str, float]
    """Seconds of each."""
    wrong: tuple[str, ...]
    """Gates that did not pass, and why."""


def chat_gates(run: Run) -> Result:
    """The gates of a chat model, of this checkout and of the commit before, in turn."""
    versions = {"before": _before(run.folder / "before"), "now": ROOT}
    found: dict[tuple[str, str], list[Once]] = {
        (name, version): [] for name in SETS for version in versions
    }
    for turn in range(run.rounds):
        for name, asked in SETS.items():
            for version in tuple(versions)[:: 1 if turn % 2 else -1]:
                run.say(f"round {turn + 1} of {run.rounds}: {name}, {version}")
                once = _once(run, versions[version], asked)
                found[name, version].append(once)
    return _result(found)


def _before(folder: Path) -> Path:
    """The package as it was, unpacked; raises MeasureError without its history."""
    argv = ("git", "archive", BEFORE, "deployer")
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        raise MeasureError(f"`{' '.join(argv)}`: {done.stderr.decode()[-200:]}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def _once(run: Run, version: Path, asked: Sequence[str]) -> Once:
    template = ROOT / "deployer" / "templates" / "base-model.jinja"
    options = (
        *("--ctx-size", "4096", "--parallel", "2", "--metrics", "--alias", "gemma"),
        *("--chat-template-file", str(template), "--reverse-prompt", "Question:"),
    )
    with serving(llama_server(run.cache), weights(run.cache), *options) as url:
        server = psutil.Process(listener(urlsplit(url).port or 0))
        begun = sum(server.cpu_times()[:2])
        done = subprocess.run(
            (sys.executable, "-P", "-c", _RUN),
            input=json.dumps([asked, STATED, url, KEY, server.pid]),
            env={**os.environ, "PYTHONPATH": str(version)},
            capture_output=True,
            text=True,
            check=False,
        )
        cpu = sum(server.cpu_times()[:2]) - begun
    if done.returncode:
        raise MeasureError(f"gates of {version.name} ended: {done.stderr[-400:]}")
    seconds, gates, wrong = json.loads(done.stdout)
    return Once(seconds, cpu, gates, tuple(wrong))


def _result(found: Mapping[tuple[str, str], Sequence[Once]]) -> Result:
    rows = []
    for (name, version), runs in found.items():
        seconds, cpu = [it.seconds for it in runs], [it.cpu for it in runs]
        spread = f"{statistics.median(seconds):.1f}"
        spread += f" ({min(seconds):.1f}-{max(seconds):.1f})"
        times = f"{statistics.median(cpu):.1f} ({min(cpu):.1f}-{max(cpu):.1f})"
        rows.append((f"{name}, {version}", str(len(runs[0].gates)), spread, times))
    both = [found[_ALL, version] for version in ("before", "now")]
    each = [
        (gate, *(_median(gate, runs) for runs in both)) for gate in both[1][0].gates
    ]
    wrong = {
        f"{v}: {it}": 0
        for (_, v), runs in found.items()
        for r in runs
        for it in r.wrong
    }
    return Result(
        title="The gates of a chat model",
        about=(
            f"{MODEL}, {BUILD}, 2 slots of 2,048 tokens, 2 threads.",
            f"Before is commit {BEFORE}, in turn with now, each run on a fresh server.",
            "Both columns: the median, and the spread of the rounds.",
        ),
        tables=(
            Table(("", "gates", "seconds", "CPU s of llama-server"), tuple(rows)),
            Table(("", "before, s", "now, s"), tuple(each), f"Each of {_ALL}"),
        ),
        notes=tuple(f"Did not pass {it}" for it in wrong),
        samples={
            f"{name}, {version}": {
                "seconds": [it.seconds for it in runs],
                "cpu": [it.cpu for it in runs],
            }
            for (name, version), runs in found.items()
        },
    )


def _median(gate: str, runs: Sequence[Once]) -> str:
    """Seconds of one gate; a dash where that version has no such gate."""
    seconds = [it.gates[gate] for it in runs if gate in it.gates]
    return f"{statistics.median(seconds):.2f}" if seconds else "-"
