"""The gate restore: a server restored from its snapshot answers as it did before."""

import asyncio
from dataclasses import dataclass, replace
from typing import Final

from deployer.gates.harness.answers import (
    Answer,
    Broken,
    Judgement,
    Streamed,
    chunks_of,
    excerpt,
    fail,
    failed,
    first_choice,
    first_text_seconds,
    passed,
    show_time,
    unclear,
    unmeasured,
    within,
)
from deployer.gates.harness.client import Client, Unanswered, beside
from deployer.gates.harness.gate import Gate, Subject
from deployer.gates.harness.requests import CHAT, Body, chat_body
from deployer.gates.harness.target import Comeback, Target
from deployer.stack.fields import gate_options as asked
from deployer.stack.fields.values import seconds

_MAX_TOKENS: Final = 32
_PROMPTS: Final = (
    "Say in one short sentence what the capital of France is.",
    "Name three primary colours.",
    "What is 17 times 3?",
)


@dataclass(frozen=True, slots=True)
class BeforeAndAfter:
    """The answers before and after a restore."""

    comeback: Comeback | None = None
    warm: Streamed | None = None
    first: Streamed | None = None
    """The first request after it."""
    before: tuple[Answer, ...] = ()
    after: tuple[Answer, ...] = ()
    problem: str = ""
    """Why there is no answer after it."""


class Restore(Gate[asked.Restore, BeforeAndAfter]):
    """A real restore, the same answers, and the first of them soon.

    The restore is an action of the target, since that is the engine's business; this
    gate asks before and after it, and measures the first request that follows.
    """

    subject, limit, alone = Subject.QUALITY, 900, True

    async def measure(self, client: Client) -> BeforeAndAfter:
        """Ask, let the server be put away and restored, and ask the same again."""
        if self.target.bring_back is None:
            return BeforeAndAfter()
        # The first stream warms what the second one measures.
        warm = [await _stream(client) for _ in range(2)][-1]
        before = tuple([await client.post(CHAT, _body(one)) for one in _PROMPTS])
        idle = 0.0 if self.options.idle is None else seconds(self.options.idle)
        back = await asyncio.to_thread(self.target.bring_back, idle)
        there = replace(
            self.target, url=back.url, source_address=back.source_address, live=None
        )
        try:
            first, after = await _ask_restored(client, there)
        except Unanswered as error:
            return BeforeAndAfter(back, warm, before=before, problem=str(error))
        return BeforeAndAfter(back, warm, first, before, after)

    def judge(self, measured: BeforeAndAfter) -> Judgement:
        """Require a restore, then a first token, then the same answers."""
        back, first, warm = measured.comeback, measured.first, measured.warm
        if back is None:
            why = self.target.why_no_snapshot
            return unclear(why or "there is no snapshot to restore from")
        figures = {"restore_seconds": back.seconds}
        if not back.really:
            return failed(f"it was no restore: {back.detail}", **figures)
        if first is None or warm is None:
            because = f"once restored it does not answer: {measured.problem}"
            return unmeasured(because, **figures)
        with within("", **figures):
            warm_time, first_time = (
                first_text_seconds(chunks_of(one)) for one in (warm, first)
            )
        figures |= {"warm_ttft_seconds": warm_time, "restore_ttft_seconds": first_time}
        with within("", **figures):
            _check_same(measured)
        said = (
            f"restored in {show_time(back.seconds)}, and the first token"
            f" {show_time(first_time)} later ({show_time(warm_time)} warm);"
            f" {len(measured.after)} answers as before"
        )
        limit = self.options.within
        if limit is not None and back.seconds + first_time > seconds(limit):
            because = f"more than the {show_time(seconds(limit))} of `within`"
            return failed(f"{said}: {because}", **figures)
        return passed(said, **figures)


async def _ask_restored(
    client: Client, there: Target
) -> tuple[Streamed, tuple[Answer, ...]]:
    async with beside(client, there) as other:
        first = await _stream(other)
        return first, tuple([await other.post(CHAT, _body(one)) for one in _PROMPTS])


async def _stream(client: Client) -> Streamed:
    return await client.stream(CHAT, {**_body(_PROMPTS[0]), "stream": True})


def _body(prompt: str) -> Body:
    # What lies in the cache decides how a prompt is cut into batches, and that how
    # numbers are rounded: without it the same prompt has the same answer.
    return chat_body(prompt, _MAX_TOKENS, cache_prompt=False)


def _check_same(measured: BeforeAndAfter) -> None:
    """Raise Broken at the first answer that is not as it was."""
    for prompt, old, new in zip(_PROMPTS, measured.before, measured.after, strict=True):
        try:
            then = first_choice(old).message.content
        except Broken as broken:
            raise Broken(unclear(f"before the restore, {prompt}: {broken}")) from None
        with within(f"once restored, {prompt}"):
            now = first_choice(new).message.content
        if then != now:
            was, is_now = (excerpt(text or "", 60) or "nothing" for text in (then, now))
            because = f"`{was}` became `{is_now}`, asked: {prompt}"
            fail(f"once restored it answers otherwise: {because}")
