"""The gate restore: a server restored from its snapshot answers as it did before."""

import asyncio
from collections import Counter
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

from deployer.errors import EngineError
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
from deployer.planning.events import Outcome
from deployer.stack.fields import gate_options as asked
from deployer.stack.fields.values import seconds

_MAX_TOKENS: Final = 32
_PROMPTS: Final = (
    "Say in one short sentence what the capital of France is.",
    "Name three primary colours.",
    "What is 17 times 3?",
)
_DRILL_SECONDS: Final = 180
"""Longest time of each restore after the first, beside `idle`."""
_CAPTURES: Final = 6
"""Starts that capture instead of restoring, before no more are tried: platforms take a
snapshot for each type of worker."""


@dataclass(frozen=True, slots=True)
class Drill:
    """One restore, and the answers after it."""

    comeback: Comeback
    first: Streamed | None = None
    """The first request after it."""
    after: tuple[Answer, ...] = ()
    problem: str = ""
    """Reason that there is no answer after it."""

    @property
    def restores(self) -> int:
        """Restores that were tried, those included that failed before it came up."""
        back = self.comeback
        if back.captured:
            return back.failed
        return max(1, back.failed + back.really)


@dataclass(frozen=True, slots=True)
class Drills:
    """The answers before, and all restores."""

    warm: Streamed | None = None
    before: tuple[Answer, ...] = ()
    drills: tuple[Drill, ...] = ()


class Restore(Gate[asked.Restore, Drills]):
    """A real restore, the same answers, and the first of them soon.

    The restore is an action of the target, since that is the engine's business; this
    gate asks before and after it, and measures the first request that follows.
    """

    subject, limit, alone = Subject.QUALITY, 900, True

    @property
    def longest(self) -> float:
        """See `Gate.longest`: more restores take longer."""
        more = (self.options.times or 1) - 1
        return self.limit + more * (_DRILL_SECONDS + self._idle)

    @property
    def _idle(self) -> float:
        return 0.0 if self.options.idle is None else seconds(self.options.idle)

    async def measure(self, client: Client) -> Drills:
        """Ask, let the server be put away and restored, and ask the same again.

        No more restores are tried once those that failed are too many, which decides
        nothing that the whole number would decide otherwise.
        """
        if self.target.bring_back is None:
            return Drills()
        # The first stream warms what the second one measures.
        warm = [await _stream(client) for _ in range(2)][-1]
        before = tuple([await client.post(CHAT, _body(one)) for one in _PROMPTS])
        measured = Drills(warm, before)
        good = 0
        while self.undecided(measured.drills, good):
            drill = await self._drill(client)
            good += self._judged(measured, drill).outcome is Outcome.PASS
            measured = replace(measured, drills=(*measured.drills, drill))
        return measured

    def judge(self, measured: Drills) -> Judgement:
        """Require so many restores, each with a first token and the same answers."""
        if measured.warm is None:
            why = self.target.why_no_snapshot
            return unclear(why or "there is no snapshot to restore from")
        runs = sum(drill.restores for drill in measured.drills)
        there = (it for it in measured.drills if not it.comeback.captured)
        judged = tuple(self._judged(measured, drill) for drill in there)
        if not runs:
            last = measured.drills[-1].comeback
            because = f"no start was a restore, {len(measured.drills)} captured"
            return unclear(f"{because}: {last.detail}")
        if self.options.times is None and runs == len(judged):
            return judged[-1]
        return self._together(runs, judged)

    async def _drill(self, client: Client) -> Drill:
        assert self.target.bring_back is not None  # noqa: S101 - asked before
        try:
            back = await asyncio.to_thread(self.target.bring_back, self._idle)
        except EngineError as error:
            if self.options.times is None:
                raise
            why = f"it did not come back: {error.message}"
            return Drill(Comeback(really=False, seconds=0, detail=why, url=""))
        if not back.really:
            return Drill(back)
        there = replace(
            self.target, url=back.url, source_address=back.source_address, live=None
        )
        try:
            return Drill(back, *await _ask_restored(client, there))
        except Unanswered as error:
            return Drill(back, problem=str(error))

    def undecided(self, drills: tuple[Drill, ...], good: int) -> bool:
        """Return whether another restore is to be tried, after so many good ones."""
        captured = sum(it.comeback.captured for it in drills)
        runs = sum(it.restores for it in drills)
        times, allowed = self.options.times or 1, self.options.failures or 0
        return captured < _CAPTURES and runs < times and runs - good <= allowed

    def _judged(self, measured: Drills, drill: Drill) -> Judgement:
        try:
            return self._one(measured, drill)
        except Broken as broken:
            return broken.judgement

    def _one(self, measured: Drills, drill: Drill) -> Judgement:
        back, first, warm = drill.comeback, drill.first, measured.warm
        figures = {"restore_seconds": back.seconds}
        if not back.really:
            return failed(f"it was no restore: {back.detail}", **figures)
        if first is None or warm is None:
            because = f"once restored it does not answer: {drill.problem}"
            return unmeasured(because, **figures)
        with within("", **figures):
            warm_time, first_time = (
                first_text_seconds(chunks_of(one)) for one in (warm, first)
            )
        figures |= {"warm_ttft_seconds": warm_time, "restore_ttft_seconds": first_time}
        with within("", **figures):
            _check_same(measured.before, drill.after)
        said = (
            f"restored in {show_time(back.seconds)}, and the first token"
            f" {show_time(first_time)} later ({show_time(warm_time)} warm);"
            f" {len(drill.after)} answers as before"
        )
        limit = self.options.within
        if limit is not None and back.seconds + first_time > seconds(limit):
            because = f"more than the {show_time(seconds(limit))} of `within`"
            return failed(f"{said}: {because}", **figures)
        return passed(said, **figures)

    def _together(self, runs: int, judged: tuple[Judgement, ...]) -> Judgement:
        """Judge by the number of restores, with a bound by the exact binomial."""
        good, times = _good(judged), self.options.times or 1
        bound = asked.least_share(good, runs)
        figures = {"restores": runs, "restores_good": good, "restore_share": bound}
        well = [it.figures for it in judged if it.outcome is Outcome.PASS]
        for name in well[0] if well else ():
            figures[name] = median(one[name] for one in well)
        said = f"{good} of {runs} restores succeeded"
        share = f"at least {bound:.0%} at {asked.CONFIDENCE:.0%} confidence"
        allowed = self.options.failures
        flaws = Counter(it.because for it in judged if it.outcome is not Outcome.PASS)
        why = "; ".join(f"{flaw} ({n} times)" for flaw, n in flaws.most_common(3))
        if allowed is None or runs - good > allowed:
            may = "none may fail" if not allowed else f"{allowed} of {times} may fail"
            return failed(f"{said}, {may}: {why or 'they crashed'}", **figures)
        if runs < times:
            because = "the other starts captured, and were no restores"
            return unclear(f"{said}, {times} are wanted: {because}", **figures)
        took = [one["restore_seconds"] for one in well]
        pace = f"median {show_time(median(took))}, slowest {show_time(max(took))}"
        return passed(f"{said}, {share}; {pace}", **figures)


def _good(judged: tuple[Judgement, ...]) -> int:
    return sum(it.outcome is Outcome.PASS for it in judged)


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


def _check_same(before: tuple[Answer, ...], after: tuple[Answer, ...]) -> None:
    """Raise Broken at the first answer that is not as it was."""
    for prompt, old, new in zip(_PROMPTS, before, after, strict=True):
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
