"""Gate restore: a server that comes back from its snapshot answers as it did before.

What brings it back is an action of the target, since that is the engine's business;
this gate asks before and after it, and measures the first request that follows.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from deployer.gates.checks.stream import told_by
from deployer.gates.checks.thinking import first_choice
from deployer.gates.harness.answers import (
    Answer,
    Judgement,
    Streamed,
    excerpt,
    failed,
    passed,
    show_time,
    unclear,
    unmeasured,
)
from deployer.gates.harness.client import Client, Unanswered, connected
from deployer.gates.harness.requests import Body, chat_body
from deployer.gates.harness.sse import chunks_of
from deployer.gates.harness.target import Comeback, Target
from deployer.stack.fields.gate_options import Restore
from deployer.stack.fields.values import seconds

_PATH: Final = "/v1/chat/completions"
_MAX_TOKENS: Final = 32
_PROMPTS: Final = (
    "Say in one short sentence what the capital of France is.",
    "Name three primary colours.",
    "What is 17 times 3?",
)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was answered before and after the server came back."""

    comeback: Comeback | None = None
    warm: Streamed | None = None
    first: Streamed | None = None
    """The first request after it."""
    before: tuple[Answer, ...] = ()
    after: tuple[Answer, ...] = ()
    problem: str = ""
    """Why nothing was asked after it."""


async def measure(client: Client, parameters: Restore, target: Target) -> Measurement:
    """Ask, let the server be put away and brought back, and ask the same again."""
    bring_back = target.bring_back
    if bring_back is None:
        return Measurement()
    # The first stream warms what the second one measures.
    warm = [await _stream(client) for _ in range(2)][-1]
    before = [await client.post(_PATH, _body(prompt)) for prompt in _PROMPTS]
    idle = 0.0 if parameters.idle is None else seconds(parameters.idle)
    comeback = await asyncio.to_thread(bring_back, idle)
    there = replace(
        target, url=comeback.url, source_address=comeback.source_address, live=None
    )
    try:
        first, after = await _asked(client, there, _PROMPTS)
    except Unanswered as error:
        return Measurement(comeback, warm, before=tuple(before), problem=str(error))
    return Measurement(comeback, warm, first, tuple(before), tuple(after))


def judge(measurement: Measurement, parameters: Restore, target: Target) -> Judgement:
    """A real restore, the same answers, and the first of them soon."""
    back, first, warm = measurement.comeback, measurement.first, measurement.warm
    if back is None:
        return unclear(target.why_no_snapshot or "there is no snapshot to restore from")
    figures = {"restore_seconds": back.seconds}
    if not back.really:
        return failed(f"it was no restore: {back.detail}", **figures)
    if first is None or warm is None:
        because = f"once restored it does not answer: {measurement.problem}"
        return unmeasured(because, **figures)
    warm_time, first_time = _first_token(warm), _first_token(first)
    if isinstance(warm_time, Judgement):
        return Judgement(warm_time.outcome, warm_time.because, figures)
    if isinstance(first_time, Judgement):
        return Judgement(first_time.outcome, first_time.because, figures)
    figures |= {"warm_ttft_seconds": warm_time, "restore_ttft_seconds": first_time}
    if changed := _changed(measurement):
        return Judgement(changed.outcome, changed.because, figures)
    said = (
        f"restored in {show_time(back.seconds)}, and the first token"
        f" {show_time(first_time)} later ({show_time(warm_time)} warm);"
        f" {len(measurement.after)} answers as before"
    )
    within = None if parameters.within is None else seconds(parameters.within)
    if within is not None and back.seconds + first_time > within:
        because = f"{said}: more than the {show_time(within)} of `within`"
        return failed(because, **figures)
    return passed(said, **figures)


async def _stream(client: Client) -> Streamed:
    return await client.stream(_PATH, {**_body(_PROMPTS[0]), "stream": True})


def _body(prompt: str) -> Body:
    # What lies in the cache decides how a prompt is cut into batches, and that how
    # numbers are rounded: without it the same prompt has the same answer.
    return chat_body(prompt, _MAX_TOKENS, cache_prompt=False)


async def _asked(
    client: Client, target: Target, prompts: Iterable[str]
) -> tuple[Streamed, list[Answer]]:
    """The first answer and those to compare, of the server that came back."""
    async with connected(target) as http:
        other = Client(http, target, gate=client.gate, clock=client.clock)
        try:
            first = await _stream(other)
            return first, [await other.post(_PATH, _body(it)) for it in prompts]
        finally:
            for exchange in other.evidence:
                client.keep(exchange)


def _first_token(streamed: Streamed) -> float | Judgement:
    match chunks_of(streamed):
        case Judgement() as broken:
            return broken
        case timed:
            told = told_by(timed)
    if told.first_seconds is None:
        return failed("a stream holds no text")
    return told.first_seconds


def _changed(measurement: Measurement) -> Judgement | None:
    """The first answer that is not what it was."""
    pairs = zip(_PROMPTS, measurement.before, measurement.after, strict=True)
    for prompt, old, new in pairs:
        then, now = first_choice(old), first_choice(new)
        if isinstance(then, Judgement):
            return unclear(f"before the restore, {prompt}: {then.because}")
        if isinstance(now, Judgement):
            return Judgement(now.outcome, f"once restored, {prompt}: {now.because}")
        if then.message.content != now.message.content:
            texts = (then.message.content or "", now.message.content or "")
            was, is_now = (excerpt(text, 60) or "nothing" for text in texts)
            because = f"`{was}` became `{is_now}`, asked: {prompt}"
            return failed(f"once restored it answers otherwise: {because}")
    return None
