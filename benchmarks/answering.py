"""A llama-server seen from outside: its port, its health, its tokens."""

import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.applied import KEY
from benchmarks.processes import MeasureError
from deployer.engines.local.supervise.process import scrubbed

HOST = "127.0.0.1"
PATIENCE = 120.0
_PAUSE = 0.002
PROMPT = "The capital of France is"


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds since the start of a command."""

    port: float
    """The port is open: a load balancer would send requests here, too soon."""
    healthy: float
    first_token: float


@dataclass(frozen=True, slots=True)
class Answer:
    """One streamed answer."""

    first_token: float
    """Seconds."""
    tokens_per_second: float
    """From the first token to the last."""


def watch(port: int, begun: float, alive: Callable[[], bool]) -> Times:
    """Wait for port, health and first token of what was started at ``begun``."""
    _until(lambda: _is_open(port), alive)
    opened = time.monotonic() - begun
    _until(lambda: _is_healthy(port), alive)
    healthy = time.monotonic() - begun
    ask(port, PROMPT, tokens=1)
    return Times(opened, healthy, time.monotonic() - begun)


def by_hand(argv: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    """Start llama-server as somebody would in a terminal, with its log in a file."""
    environment = {**scrubbed(os.environ), "LLAMA_API_KEY": KEY}
    with log.open("wb") as stream:
        return subprocess.Popen(
            argv,
            env=environment,
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            # As ours is: the kernel divides its time among sessions.
            start_new_session=True,
        )


def end(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM, and SIGKILL after a while."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=5)
    process.kill()
    process.wait()


def ask(port: int, prompt: str, *, tokens: int) -> Answer:
    """One streamed completion, greedy, of which nothing is remembered."""
    body: Mapping[str, object] = {
        "prompt": prompt,
        "n_predict": tokens,
        "temperature": 0,
        "seed": 1,
        "ignore_eos": True,
        "cache_prompt": False,
        "stream": True,
    }
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE)
    begun = time.perf_counter()
    times = []
    try:
        connection.request("POST", "/completion", json.dumps(body), headers)
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            raise MeasureError(f"a completion ended in HTTP {answer.status}")
        while line := answer.readline():
            if line.startswith(b"data:") and b'"stop":true' not in line:
                times.append(time.perf_counter() - begun)
    finally:
        connection.close()
    if len(times) < tokens:
        raise MeasureError(f"{len(times)} tokens came, {tokens} were asked for")
    spread = times[-1] - times[0]
    rate = (len(times) - 1) / spread if spread else 0.0
    return Answer(times[0], rate)


def _until(ready: Callable[[], bool], alive: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        if not alive():
            raise MeasureError("it ended before it answered")
        if time.monotonic() > deadline:
            raise MeasureError(f"it does not answer within {PATIENCE:g} s")
        time.sleep(_PAUSE)


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
