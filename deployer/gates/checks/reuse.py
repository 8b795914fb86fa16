"""The gates prompt_cache and slots: what was read once is not read again."""

import asyncio
from dataclasses import dataclass, replace
from typing import Final

from pydantic import Field

from deployer.gates.harness.answers import (
    CHAT,
    PASSAGE,
    Answer,
    Body,
    Broken,
    Judgement,
    Message,
    Shape,
    Usage,
    chat_body,
    excerpt,
    failed,
    inapplicable,
    passed,
    read,
    show_time,
    unclear,
    unmeasured,
    within,
)
from deployer.gates.harness.client import Client, Comeback, Unanswered, beside
from deployer.gates.harness.gate import Gate, Subject
from deployer.runtime.warmup import Request, body_of
from deployer.stack.fields import gate_options as asked

_TOKENS: Final = 8
_LONG: Final = PASSAGE * 10
_QUESTION: Final = "Which animal jumps?"
_SHARE: Final = 0.9


class CachedTokens(Shape):
    """How much of a prompt was not read again."""

    cached_tokens: int


class CountedUsage(Usage):
    """Tokens of a request, with those of its prompt that were cached."""

    prompt_tokens_details: CachedTokens | None = None


class CachedChoice(Shape):
    """One answer, as far as it is compared."""

    message: Message


class CachedCompletion(Shape):
    """A chat answer that counts what was cached."""

    choices: tuple[CachedChoice, ...] = Field(min_length=1)
    usage: CountedUsage


@dataclass(frozen=True, slots=True)
class Reads:
    """A prompt read cold, and again; after a restore where there is a file."""

    cold: Answer | None = None
    warm: Answer | None = None
    comeback: Comeback | None = None
    problem: str = ""
    """Why there is no second answer."""


class PromptCache(Gate[asked.PromptCache, Reads]):
    """The second request has to read its prompt from the cache, and answer the same.

    With a `file` the server is put away and restored in between: what it holds then
    came back with its memory, and the first request has to find it there.
    """

    subject, limit, alone = Subject.QUALITY, 900, True

    async def measure(self, client: Client) -> Reads:
        """Ask without the cache, then with it; restore in between with a file."""
        body = self._body()
        if self.options.file is None:
            cold = await client.post(CHAT, {**body, "cache_prompt": False})
            await client.post(CHAT, {**body, "max_tokens": 1})
            return Reads(cold, await client.post(CHAT, body))
        if self.target.bring_back is None:
            return Reads()
        back = await asyncio.to_thread(self.target.bring_back, 0.0)
        there = replace(
            self.target, url=back.url, source_address=back.source_address, live=None
        )
        try:
            async with beside(client, there) as other:
                warm = await other.post(CHAT, body)
                cold = await other.post(CHAT, {**body, "cache_prompt": False})
        except Unanswered as error:
            return Reads(comeback=back, problem=str(error))
        return Reads(cold, warm, back)

    def judge(self, measured: Reads) -> Judgement:
        """Compare what was cached with the prompt, and both answers."""
        back, cold, warm = measured.comeback, measured.cold, measured.warm
        if self.options.file is not None:
            if back is None:
                why = self.target.why_no_snapshot
                return unclear(why or "there is no snapshot to restore from")
            if not back.really:
                return failed(f"it was no restore: {back.detail}")
        if cold is None or warm is None:
            return unmeasured(f"once restored it does not answer: {measured.problem}")
        with within("read cold"):
            first = read(cold, CachedCompletion)
        with within("read again"):
            again = read(warm, CachedCompletion)
        if again.usage.prompt_tokens_details is None:
            return unclear("answers do not count cached tokens; take a newer build")
        cached = again.usage.prompt_tokens_details.cached_tokens
        whole = again.usage.prompt_tokens
        figures = {
            "prompt_tokens": float(whole),
            "cached_tokens": float(cached),
            "cold_seconds": cold.seconds,
            "cached_seconds": warm.seconds,
        }
        least = _SHARE if self.options.at_least is None else self.options.at_least
        said = f"{cached} of {whole} tokens of the prompt were read from the cache"
        if not 0 <= cached <= whole:
            return failed(f"{said}, which cannot be", **figures)
        if cached < least * whole:
            because = f"less than `at_least: {least:g}`"
            return failed(f"{said}, {because}", **figures)
        then, now = (_said(one.choices[0].message) for one in (first, again))
        if then != now:
            shown = f"`{excerpt(then, 60)}` became `{excerpt(now, 60)}`"
            return failed(f"{said}, and the answer differs: {shown}", **figures)
        times = f"{show_time(cold.seconds)} cold, {show_time(warm.seconds)} cached"
        return passed(f"{said}; {times}", **figures)

    def _body(self) -> Body:
        file = self.options.file
        if file is None:
            return chat_body(_LONG + _QUESTION, _TOKENS)
        # As the warm-up was sent: what else a body says may be in the prompt, too.
        asked_for = Request(
            _QUESTION,
            file=file,
            role=self.options.role,
            tools=self.options.tools,
            max_tokens=_TOKENS,
        )
        try:
            return body_of(asked_for, None, folder=self.target.folder)
        except ValueError as error:
            raise Broken(unmeasured(str(error))) from error


def _said(message: Message) -> str:
    return f"{message.reasoning_content or ''}{message.content or ''}"


_SAVED: Final = "deployer-gate.bin"
_PROMPT: Final = _LONG + "The dog"


class Saved(Shape):
    """The answer to saving a slot."""

    n_saved: int


class Restored(Shape):
    """The answer to restoring a slot."""

    n_restored: int


class Cached(Shape):
    """The clock of a completion, as far as it counts the cache."""

    cache_n: int
    prompt_n: int


class RawCompletion(Shape):
    """The answer of /completion."""

    content: str
    timings: Cached


@dataclass(frozen=True, slots=True)
class SlotSteps:
    """A prompt, its slot saved, emptied and restored, and the prompt again."""

    before: Answer
    saved: Answer
    erased: Answer | None = None
    restored: Answer | None = None
    after: Answer | None = None


class Slots(Gate[asked.Slots, SlotSteps]):
    """A slot that was saved and restored has to hold its prompt again.

    llama-server may count what it restores, and read the prompt again all the same
    (models with a sliding window): only the next request proves it.
    """

    subject, limit, alone = Subject.QUALITY, 120, True

    async def measure(self, client: Client) -> SlotSteps:
        """Fill slot 0, save it, empty it, restore it, and ask the same again."""
        body: Body = {
            "prompt": _PROMPT,
            "n_predict": 1,
            "temperature": 0,
            "id_slot": 0,
            "cache_prompt": True,
        }
        before = await client.post("/completion", body)
        saved = await client.post("/slots/0?action=save", {"filename": _SAVED})
        if saved.status != 200:
            return SlotSteps(before, saved)
        erased = await client.post("/slots/0?action=erase", {})
        restored = await client.post("/slots/0?action=restore", {"filename": _SAVED})
        after = await client.post("/completion", body)
        return SlotSteps(before, saved, erased, restored, after)

    def judge(self, measured: SlotSteps) -> Judgement:
        """Require that the last request found what was saved."""
        stated = self.target.expects.get("server.flags.slot-save-path")
        if measured.saved.status == 501 and stated is None:
            return inapplicable("slots are not saved: no `slot-save-path` is stated")
        first = read(measured.before, RawCompletion)
        saved = read(measured.saved, Saved).n_saved
        if saved < 1:
            return failed("a slot with a prompt is saved with no token")
        if measured.restored is None or measured.after is None:
            return unmeasured("the slot was not restored")
        if measured.erased is not None and measured.erased.status != 200:
            return failed(f"a slot is not emptied: HTTP {measured.erased.status}")
        restored = read(measured.restored, Restored).n_restored
        if restored != saved:
            return failed(f"{saved} tokens were saved, {restored} restored")
        after = read(measured.after, RawCompletion)
        whole = after.timings.cache_n + after.timings.prompt_n
        figures = {"saved_tokens": float(saved), "cached_tokens": after.timings.cache_n}
        if after.timings.cache_n < _SHARE * min(saved, whole):
            return failed(
                f"{restored} tokens are reported as restored, and the next request "
                f"found {after.timings.cache_n} of its {whole} in the cache: the "
                f"restore has no effect",
                **figures,
            )
        if after.content != first.content:
            return failed("a restored slot answers differently", **figures)
        return passed(
            f"{saved} tokens were saved and restored, and the next request read "
            f"{after.timings.cache_n} of {whole} from there",
            **figures,
        )
