"""Gate metrics: Prometheus counters are there, and move with a request."""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from deployer.gates.harness.answers import (
    Answer,
    Completion,
    Judgement,
    Usage,
    excerpt,
    failed,
    is_web_page,
    passed,
    read,
    refused,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.requests import PROMPT, chat_body
from deployer.gates.harness.target import Target
from deployer.planning.verdict import Outcome
from deployer.stack.fields.gate_options import Metrics
from deployer.system.pauses import growing

PROMPT_TOKENS: Final = "llamacpp:prompt_tokens_total"
PREDICTED_TOKENS: Final = "llamacpp:tokens_predicted_total"
_MAX_TOKENS = 8
_PATIENCE_SECONDS = 1.0
"""The counters of a request are written a moment after its answer."""
_PAUSES = (0.01, 0.1)


@dataclass(frozen=True, slots=True)
class Measurement:
    """The counters on both sides of a request."""

    before: Answer
    completion: Answer
    after: Answer


@dataclass(frozen=True, slots=True)
class Counters:
    """Tokens that the server has counted since its start."""

    prompt: float
    predicted: float


async def measure(client: Client, parameters: Metrics, target: Target) -> Measurement:
    """Read, ask, and read again until the counters have moved."""
    before = await client.get("/metrics")
    # Cached prompt tokens are not counted: ask for none to be reused.
    body = chat_body(PROMPT, _MAX_TOKENS, cache_prompt=False)
    completion = await client.post("/v1/chat/completions", body)
    begun = client.clock()
    pauses = growing(*_PAUSES)
    while True:
        found = Measurement(before, completion, await client.get("/metrics"))
        if not _may_still_move(found, parameters, target):
            return found
        if client.clock() - begun > _PATIENCE_SECONDS:
            return found
        await asyncio.sleep(next(pauses))


def judge(measurement: Measurement, _parameters: Metrics, _target: Target) -> Judgement:
    """Both counters have to be numbers, and grow by what the request took."""
    if measurement.before.status == 501:
        return failed("/metrics is off; set `server.metrics: true`")
    match counters_of(measurement.before):
        case Judgement() as broken:
            return broken
        case before:
            pass
    match read(measurement.completion, Completion):
        case Judgement() as broken:
            return broken
        case completion:
            pass
    match counters_of(measurement.after):
        case Judgement() as broken:
            return broken
        case after:
            pass
    return _compared(before, after, completion.usage)


def counters_of(answer: Answer) -> Counters | Judgement:
    """The two counters, or what is wrong with them."""
    if answer.status != 200:
        return refused(answer)
    if is_web_page(answer):
        return failed(f"/metrics is a web page: `{excerpt(answer.body)}`")
    match samples_of(answer.body):
        case str() as problem:
            return failed(f"/metrics is not Prometheus text: {problem}")
        case samples:
            pass
    for name in (PROMPT_TOKENS, PREDICTED_TOKENS):
        if name not in samples:
            return failed(f"/metrics holds no `{name}`")
        if not math.isfinite(samples[name]) or samples[name] < 0:
            return failed(f"`{name}` is {samples[name]}")
    return Counters(samples[PROMPT_TOKENS], samples[PREDICTED_TOKENS])


def samples_of(body: bytes) -> Mapping[str, float] | str:
    """Every sample without labels, or why the text does not parse."""
    # Imported here: 40 ms that the other gates need not pay.
    from prometheus_client.parser import (  # noqa: PLC0415
        text_string_to_metric_families,
    )

    try:
        families = list(text_string_to_metric_families(body.decode()))
    except (ValueError, IndexError, KeyError) as error:
        return excerpt(f"{error}") or type(error).__name__
    return {
        sample.name: float(sample.value)
        for family in families
        for sample in family.samples
        if not sample.labels
    }


def _compared(before: Counters, after: Counters, usage: Usage) -> Judgement:
    predicted = after.predicted - before.predicted
    prompt = after.prompt - before.prompt
    figures = {"prompt_tokens_counted": prompt, "predicted_tokens_counted": predicted}
    if predicted < 0 or prompt < 0:
        return failed("a counter went back: the server was restarted meanwhile")
    if predicted < max(1, usage.completion_tokens):
        return failed(
            f"`{PREDICTED_TOKENS}` grew by {predicted:.0f} over an answer of "
            f"{usage.completion_tokens} tokens",
            **figures,
        )
    if prompt < 1:
        return failed(f"`{PROMPT_TOKENS}` did not grow with a request", **figures)
    return passed(
        f"the counters grew by {prompt:.0f} prompt and {predicted:.0f} predicted "
        f"tokens",
        **figures,
    )


def _may_still_move(found: Measurement, parameters: Metrics, target: Target) -> bool:
    """Return whether the only thing wrong is that the counters are not there yet."""
    readable = isinstance(counters_of(found.after), Counters)
    answered = found.completion.status == 200
    verdict = judge(found, parameters, target)
    moved = verdict.outcome is Outcome.PASS
    return readable and answered and bool(verdict.figures) and not moved
