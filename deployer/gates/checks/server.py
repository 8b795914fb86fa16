"""The gates health, build, props, models and auth: is it the server that is stated."""

import asyncio
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

from pydantic import Field

from deployer.errors import EngineError
from deployer.gates.harness.answers import (
    BUILD_INFO,
    CHAT,
    UNCOUNTED,
    Answer,
    Body,
    Broken,
    BuildProps,
    ContextProps,
    Judgement,
    Shape,
    SlotCount,
    Streamed,
    TokenList,
    chat_body,
    chunks_of,
    excerpt,
    fail,
    failed,
    first_choice,
    first_text_seconds,
    is_web_page,
    passed,
    read,
    refused,
    show_time,
    unclear,
    unmeasured,
    within,
)
from deployer.gates.harness.client import Client, Comeback, Target, Unanswered, beside
from deployer.gates.harness.gate import Gate, Subject
from deployer.planning.events import Outcome
from deployer.stack.fields import gate_options as asked
from deployer.stack.fields.values import JsonValue, seconds


class Status(Shape):
    """The answer of /health."""

    status: str


class Health(Gate[asked.Health, Answer]):
    """Only llama-server's own word counts: any web server can answer 200."""

    subject, limit = Subject.IDENTITY, 120

    async def measure(self, client: Client) -> Answer:
        """Ask once; the client waits while the model is loading."""
        return await client.get("/health")

    def judge(self, measured: Answer) -> Judgement:
        """Require the word of llama-server."""
        if measured.status != 200:
            return refused(measured)
        said = excerpt(measured.body)
        if is_web_page(measured):
            return failed(f"not a llama-server: /health is a web page, `{said}`")
        try:
            status = read(measured, Status).status
        except Broken:
            said = said or "nothing"
            return failed(f"not a llama-server: /health answered `{said}`")
        if status != "ok":
            return failed(f"/health says `{excerpt(status)}` instead of `ok`")
        return passed("the server is healthy", health_seconds=measured.seconds)


_COMMIT: Final = re.compile(r"[0-9a-f]{7,40}")


class Build(Gate[asked.Build, Answer]):
    """llama-server reports `build_info` as `b<number>-<commit>`.

    The number counts the commits of the clone it was built from, so a shallow clone or
    a source archive reports 1 or 0; only the commit proves such a binary.
    """

    subject, limit = Subject.IDENTITY, 30

    async def measure(self, client: Client) -> Answer:
        """Ask for /props."""
        return await client.get("/props")

    def judge(self, measured: Answer) -> Judgement:
        """Compare the number and the commit with what the stack states."""
        text = read(measured, BuildProps).build_info
        found = BUILD_INFO.fullmatch(text)
        if found is None:
            shown = excerpt(text)
            return failed(f"`build_info` is `{shown}`, not `b<number>-<commit>`")
        number, reported = int(found[1]), found[2]
        tag = self.target.text("llama_cpp.tag") or ""
        commit = self.target.text("llama_cpp.commit")
        if _COMMIT.fullmatch(tag):
            return _by_commit(number, reported, tag, "llama_cpp.tag")
        wanted = int(tag[1:]) if re.fullmatch(r"b\d+", tag) else self.target.build
        named = tag or f"b{wanted}"
        if wanted is None and commit is None:
            return unclear(
                f"the server is `{text}`, and no build is stated to compare it with"
            )
        if number <= UNCOUNTED or wanted is None:
            if commit is None:
                return unclear(
                    f"the server reports build {number}, commit `{reported}`: it was "
                    f"built without the history that numbers builds; state "
                    f"`llama_cpp.commit` to prove that it is `{named}`"
                )
            return _by_commit(number, reported, commit, "llama_cpp.commit")
        if number != wanted:
            return failed(f"the server is `{text}`, the stack pins `{named}`")
        if commit is not None and not _same_commit(reported, commit):
            return _by_commit(number, reported, commit, "llama_cpp.commit")
        return passed(f"the server is `{text}`, as the stack pins it")


def _by_commit(number: int, reported: str, wanted: str, path: str) -> Judgement:
    if not _COMMIT.fullmatch(reported):
        return unclear(
            f"the server reports no commit (`{excerpt(reported)}`), "
            f"so `{path}: {wanted}` cannot be proved"
        )
    if not _same_commit(reported, wanted):
        return failed(f"the server is commit `{reported}`, `{path}` says `{wanted}`")
    return passed(
        f"the server is commit `{reported}`, as `{path}` says "
        f"(it reports build {number})"
    )


def _same_commit(one: str, other: str) -> bool:
    """Return whether one is an abbreviation of the other, and long enough."""
    shorter, longer = sorted((one, other), key=len)
    return len(shorter) >= 7 and longer.startswith(shorter)


_CELLS: Final = 256
"""The KV cache grows in steps of this many cells."""
_WEIGHTS: Final = ("model.repo", "model.path", "model.url", "model.pypi")


class Modalities(Shape):
    """Kinds of input besides text."""

    vision: bool


class ServerProps(SlotCount, ContextProps):
    """The part of /props that the stack decides."""

    model_alias: str | None = None
    modalities: Modalities | None = None
    endpoint_slots: bool | None = None
    endpoint_metrics: bool | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One thing that the stack states, and what the server reports."""

    what: str
    stated: str
    wanted: int | str | bool
    found: int | str | bool | None

    def __str__(self) -> str:
        said = "is not reported" if self.found is None else f"is {_shown(self.found)}"
        wanted = _shown(self.wanted)
        return f"{self.what} {said}, `{self.stated}` means {wanted}"


class Props(Gate[asked.Props, Answer]):
    """Every stated thing has to be there; what is not stated is not judged."""

    subject, limit = Subject.IDENTITY, 30

    async def measure(self, client: Client) -> Answer:
        """Ask for /props."""
        return await client.get("/props")

    def judge(self, measured: Answer) -> Judgement:
        """Compare what the stack states with what is reported."""
        props = read(measured, ServerProps)
        compared = list(_comparisons(props, self.target))
        figures = {
            "slots": float(props.total_slots),
            "context_tokens_per_slot": float(props.default_generation_settings.n_ctx),
        }
        differing = [str(one) for one in compared if one.wanted != one.found]
        if not compared:
            return unclear("nothing is stated that /props could confirm", **figures)
        if differing:
            because = "; ".join((*differing, *_capped(self.target.process.log)))
            return failed(because, **figures)
        confirmed = ", ".join(one.what for one in compared)
        return passed(f"as the stack says: {confirmed}", **figures)


_CAPPED: Final = re.compile(r"training context of the model \((\d+)\) - capping")


def _capped(log: str) -> Iterator[str]:
    """Yield why a slot has a smaller context, where the log of the start says it."""
    if found := _CAPPED.search(log):
        yield f"the model was trained for {found[1]} tokens, and a slot gets no more"


def context_per_slot(
    ctx_size: int, parallel: int | None, *, unified: bool | None
) -> int:
    """Return the context of one slot in tokens, as measured on b10434.

    `ctx_size` is rounded up to 256 cells; shared by all slots when `kv_unified` is on
    or `parallel` is unset; else divided by `parallel` and rounded up again.
    """
    whole = -(-ctx_size // _CELLS) * _CELLS
    if parallel is None or unified:
        return whole
    if whole % parallel == 0:
        return whole // parallel
    return -(-whole // parallel // _CELLS) * _CELLS


def _comparisons(props: ServerProps, target: Target) -> Iterator[Comparison]:
    parallel = target.whole("server.parallel")
    if parallel is not None:
        stated = f"server.parallel: {parallel}"
        yield Comparison("the slots", stated, parallel, props.total_slots)
    if (ctx_size := target.whole("server.ctx_size")) is not None:
        unified = target.truth("server.kv_unified")
        wanted = context_per_slot(ctx_size, parallel, unified=unified)
        shared = f" over {parallel} slots" if parallel and not unified else ""
        yield Comparison(
            f"the context of a slot{shared}",
            f"server.ctx_size: {ctx_size}",
            wanted,
            props.default_generation_settings.n_ctx,
        )
    if (alias := target.text("model.alias")) is not None:
        # llama-server sorts several aliases, and answers with the first.
        first = min(part.strip() for part in alias.split(","))
        yield Comparison("the alias", f"model.alias: {alias}", first, props.model_alias)
    mmproj = next(
        (
            str(value)
            for path, value in target.expects.items()
            if path.startswith("model.mmproj") and value is not None
        ),
        None,
    )
    whole_stack = any(path in target.expects for path in _WEIGHTS)
    by_flag = "server.flags.mmproj" in target.expects
    if not by_flag and (mmproj is not None or whole_stack):
        stated = f"model.mmproj: {mmproj}" if mmproj else "no model.mmproj"
        seen = props.modalities.vision if props.modalities else None
        yield Comparison("vision", stated, mmproj is not None, seen)
    for what, path, found in (
        ("/slots", "server.slots", props.endpoint_slots),
        ("/metrics", "server.metrics", props.endpoint_metrics),
    ):
        if (switch := target.truth(path)) is not None:
            yield Comparison(what, f"{path}: {str(switch).lower()}", switch, found)


def _shown(value: int | str | bool) -> str:  # noqa: FBT001 - any value of JSON
    match value:
        case bool():
            return "on" if value else "off"
        case str():
            return f"`{value}`"
        case int():
            return str(value)


class ListedModel(Shape):
    """One model that a client can ask for."""

    id: str = Field(min_length=1)
    aliases: tuple[str, ...] = ()


class ModelList(Shape):
    """The answer of /v1/models."""

    data: tuple[ListedModel, ...]


class Models(Gate[asked.Models, Answer]):
    """The alias has to be among the names; without one, some name has to be there."""

    subject, limit = Subject.IDENTITY, 30

    async def measure(self, client: Client) -> Answer:
        """Ask with the key: builds after b10435 want one, older ones do not mind."""
        return await client.get("/v1/models")

    def judge(self, measured: Answer) -> Judgement:
        """Look for the alias."""
        listed = read(measured, ModelList).data
        if not listed:
            return failed("no model is listed")
        names = sorted({name for one in listed for name in (one.id, *one.aliases)})
        shown = ", ".join(f"`{name}`" for name in names)
        alias = self.target.text("model.alias")
        if alias is None:
            return passed(f"lists {shown}; no `model.alias` is stated")
        if {part.strip() for part in alias.split(",")} <= set(names):
            return passed(f"lists {shown}")
        return failed(f"lists {shown}, but not `model.alias: {alias}`")


_HELLO: Final[Mapping[str, JsonValue]] = {
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 1,
}
_TEXT: Final[Mapping[str, JsonValue]] = {"content": "hi"}


@dataclass(frozen=True, slots=True)
class KeyAttempt:
    """One request with a certain key, and its answer."""

    what: str
    wanted: int
    """The status it should end in."""
    answer: Answer


class Auth(Gate[asked.Auth, tuple[KeyAttempt, ...]]):
    """Refused requests cost nothing; the ones let in only split a word into tokens."""

    subject, limit = Subject.IDENTITY, 60

    async def measure(self, client: Client) -> tuple[KeyAttempt, ...]:
        """Try no key, wrong keys and the right ones; nothing without a key."""
        key = self.target.api_key
        if key is None:
            return ()
        refusals: Mapping[str, Mapping[str, str]] = {
            "no key": {},
            "a wrong key": {"Authorization": "Bearer wrong"},
            "a wrong X-Api-Key": {"X-Api-Key": "wrong"},
            "the key with a letter more": {"Authorization": f"Bearer {key}x"},
        }
        attempts = []
        for what, headers in refusals.items():
            answer = await client.post(CHAT, _HELLO, headers=headers)
            attempts.append(KeyAttempt(f"{what} on {CHAT}", 401, answer))
        answer = await client.get("/props", headers={})
        attempts.append(KeyAttempt("no key on /props", 401, answer))
        for name, one in self.target.keys.items():
            which = f"the key of `{name}`" if self.target.other_keys else "the key"
            for form, headers in (
                ("Bearer", {"Authorization": f"Bearer {one}"}),
                ("X-Api-Key", {"X-Api-Key": one}),
            ):
                answer = await client.post("/tokenize", _TEXT, headers=headers)
                what = f"{which} as {form} on /tokenize"
                attempts.append(KeyAttempt(what, 200, answer))
        return tuple(attempts)

    def judge(self, measured: tuple[KeyAttempt, ...]) -> Judgement:
        """Require that every attempt ends as it should."""
        if self.target.api_key is None:
            if name := self.target.api_key_name:
                return unmeasured(
                    f"environment variable `{name}` is not set; put `{name}=…` into "
                    f"`.env` or the environment"
                )
            return failed("the stack has no `auth.api_key`: anybody may use the server")
        for attempt in measured:
            if attempt.wanted == 200:
                try:
                    read(attempt.answer, TokenList)
                except Broken as broken:
                    fail(f"{attempt.what}: {broken}")
            elif attempt.answer.status == 200:
                return failed(f"{attempt.what} was let in")
            elif attempt.answer.status != 401:
                because = refused(attempt.answer).because
                return failed(f"{attempt.what} was not refused with 401: {because}")
        if not measured:
            return unmeasured("no attempt was made")
        let_in = "the right one is let in"
        if self.target.other_keys:
            let_in = f"those of {', '.join(self.target.keys)} are let in"
        unset = [name for name, key in self.target.other_keys.items() if key is None]
        if unset:
            let_in += f"; not set here, and not tried: {', '.join(unset)}"
        return passed(f"no key and wrong keys are refused with 401, {let_in}")


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
