"""The gate restore with restores by the hundred: a server that answers as before."""

import json
from collections.abc import Callable

from deployer.gates.checks.server import Drill, Drills, Restore
from deployer.gates.harness.answers import Answer, Event, Judgement, Streamed
from deployer.gates.harness.client import Comeback, Target
from deployer.stack.fields import gate_options as asked

BACK = Comeback(
    really=True, seconds=0.2, detail="as a seed wants it", url="http://127.0.0.1:1"
)


def _completion(name: str, finished: str | None = "stop") -> str:
    said = {name: {"role": "assistant", "content": "Paris"}}
    choice = {"index": 0, "finish_reason": finished, **said}
    counts = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return json.dumps({"id": "one", "choices": [choice], "usage": counts})


ANSWER = Answer(200, "application/json", _completion("message").encode(), 0.1)
WARM = Streamed(
    Answer(200, "text/event-stream", b"data: {}\n\n", 0.2),
    (
        Event("", _completion("delta", None), 0.1),
        Event("", _completion("delta"), 0.2),
        Event("", "[DONE]", 0.2),
    ),
)


def judged(options: asked.Restore, back: Callable[[float], Comeback]) -> Judgement:
    """What the gate makes of restores, each of which answers as before if it is one."""
    gate = Restore(options, Target(BACK.url, bring_back=back))
    drills: tuple[Drill, ...] = ()
    good = 0
    while gate.undecided(drills, good):
        there = back(0.0)
        drill = Drill(there, WARM, (ANSWER,) * 3) if there.really else Drill(there)
        good += there.really
        drills += (drill,)
    return gate.judgement(Drills(WARM, (ANSWER,) * 3, drills))
