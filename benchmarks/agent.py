"""How soon the prompt of an agent is answered: cold, again, and after a restore.

The restored server was warmed with the prompt (`snapshot.warmup: [{file: …}]`), the
other one never saw it.  Only the request counts, from its first byte to the first
token; both servers are started again in each round.
"""

import http.client
import json
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from benchmarks.answering import HOST, PATIENCE
from benchmarks.applied import BUILD, KEY, MODEL, Applied, applied
from benchmarks.processes import MeasureError
from benchmarks.result import Result, Run, Table
from benchmarks.start import RESTORES
from deployer.runtime.warmup import Request, body_of

COLD, WARM, RESTORED = "cold", "again, same server", "first after a restore"
QUESTION = "Which rule is the most important one?"


@dataclass(frozen=True, slots=True)
class Read:
    """One answer to the prompt of an agent."""

    first_token: float
    """Seconds."""
    prompt_tokens: int
    cached_tokens: int
    text: str


def agent(run: Run) -> Result:
    """Ask both servers in turn, each started again."""
    found: dict[str, list[Read]] = {COLD: [], WARM: [], RESTORED: []}
    with ExitStack() as stack:
        plain = stack.enter_context(applied(run, "plain", agent=True))
        frozen = stack.enter_context(applied(run, "warmed", agent=True, snapshot=True))
        for number in range(run.rounds):
            run.say(f"round {number + 1} of {run.rounds}")
            _again(plain, "")
            found[COLD].append(_ask(plain))
            found[WARM].append(_ask(plain))
            plain.do("stop", plain.path)
            _again(frozen, RESTORES)
            found[RESTORED].append(_ask(frozen))
            frozen.do("stop", frozen.path)
    said = {it.text for reads in found.values() for it in reads}
    if len(said) > 1:
        raise MeasureError(f"the answers differ: {sorted(said)}")
    return _result(run, found)


def _again(stack: Applied, expects: str) -> None:
    """Start a server that never saw the prompt, but in its memory."""
    stack.do("stop", stack.path)
    if expects not in stack.do("start", stack.path):
        raise MeasureError("it did not come from its snapshot")


def _ask(stack: Applied) -> Read:
    request = Request(QUESTION, file="agent.md", max_tokens=8)
    body = {
        **body_of(request, None, folder=stack.file.parent),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection(HOST, stack.port, timeout=PATIENCE)
    begun, first, text, usage = time.perf_counter(), 0.0, "", dict[str, object]()
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        for line in connection.getresponse():
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line.removeprefix(b"data: "))
            usage = chunk.get("usage") or usage
            said = "".join(it["delta"].get("content") or "" for it in chunk["choices"])
            first = first or (time.perf_counter() - begun if said else 0.0)
            text += said
    finally:
        connection.close()
    match usage:
        case {
            "prompt_tokens": int(whole),
            "prompt_tokens_details": {"cached_tokens": int(cached)},
        } if first:
            return Read(first, whole, cached, text)
        case _:
            raise MeasureError("no counted answer came")


def _result(run: Run, found: Mapping[str, Sequence[Read]]) -> Result:
    rows = []
    for way, reads in found.items():
        times = [it.first_token for it in reads]
        sooner = [a.first_token / b for a, b in zip(found[COLD], times, strict=True)]
        last = reads[-1]
        rows.append(
            (
                way,
                f"{statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f})",
                f"{last.cached_tokens} of {last.prompt_tokens}",
                f"{statistics.median(sooner):.0f}",
            )
        )
    return Result(
        title="The prompt of an agent",
        about=(
            f"{MODEL}, {BUILD}, {os.cpu_count()} cores; the same options for all.",
            (
                f"{run.rounds} rounds; each starts both servers again, and all answers"
                " are equal; from the request to the first token, without the start."
            ),
            "Ratios are the median of those of one round.",
        ),
        tables=(
            Table(
                ("", "first token s (spread)", "tokens from the cache", "× sooner"),
                tuple(rows),
            ),
        ),
        samples={way: [asdict(it) for it in reads] for way, reads in found.items()},
    )
