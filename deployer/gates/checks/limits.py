"""The gates context, errors and limits: up to the limit, and refused beyond it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from deployer.gates.checks.chat import picture_body
from deployer.gates.harness.answers import (
    CHAT,
    PASSAGE,
    Answer,
    Body,
    Broken,
    Completion,
    ContextProps,
    ErrorAnswer,
    ErrorDetail,
    Judgement,
    Shape,
    build_stated,
    chat_body,
    error_message,
    excerpt,
    fail,
    failed,
    passed,
    read,
    read_error,
    unclear,
    within,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.gate import Gate, Subject
from deployer.planning.events import Exchange
from deployer.stack.fields import gate_options as asked

_TOO_LONG: Final = "exceed_context_size_error"
_FEW, _MORE = 2, 6
"""Sentences in the two short prompts."""
_ANSWER_TOKENS, _NEEDLE_TOKENS = 16, 32
"""Longest answers: some text, and a sentence with the needle."""
_SPARE_TOKENS: Final = 4
_NEAR: Final = 0.1
"""How far below its aim the long prompt may end, as a share; or this many tokens."""
_NEAR_TOKENS: Final = 64


@dataclass(frozen=True, slots=True)
class LongPrompts:
    """A prompt that fills a slot, and one beyond it."""

    size: int
    """Context of a slot, in tokens."""
    sent: int
    """Tokens that the long prompt should have."""
    near: Answer
    over: Answer


class TooLong(ErrorDetail):
    """The error for a prompt that is too long."""

    n_prompt_tokens: int
    n_ctx: int


class TooLongAnswer(Shape):
    """The answer to a prompt that is too long."""

    error: TooLong


class Context(Gate[asked.Context, LongPrompts]):
    """The long prompt has to arrive whole, the one beyond it must be refused.

    How many tokens a text has depends on the model and its chat template, so two short
    prompts are asked first: llama-server's own count of them (`usage`) tells how much
    one sentence more adds.  A server that silently cuts a long prompt counts fewer
    tokens than were sent, and a needle in the middle is what it loses first.
    """

    subject, limit, alone = Subject.ANSWERS, 900, True

    async def measure(self, client: Client) -> LongPrompts:
        """Learn how tokens are counted, then ask near the limit and beyond it."""
        props = read(await client.get("/props"), ContextProps)
        size = props.default_generation_settings.n_ctx
        few, more = [
            read(await client.post(CHAT, self._body(count, 1)), Completion).usage
            for count in (_FEW, _MORE)
        ]
        each = (more.prompt_tokens - few.prompt_tokens) / (_MORE - _FEW)
        if each <= 0:
            fail(
                f"`usage.prompt_tokens` does not grow with the prompt: "
                f"{few.prompt_tokens}, then {more.prompt_tokens}"
            )
        fixed = few.prompt_tokens - each * _FEW
        answer = _NEEDLE_TOKENS if self.options.needle else _ANSWER_TOKENS
        aim = self._aim(size) - answer - _SPARE_TOKENS
        near, over = int((aim - fixed) / each), int((size - fixed) / each) + 2
        if near < _FEW:
            because = f"a context of {size} tokens is too small to be filled"
            raise Broken(unclear(because))
        return LongPrompts(
            size,
            round(fixed + each * near),
            await client.post(CHAT, self._body(near, answer)),
            await client.post_wrong(CHAT, self._body(over, 1)),
        )

    def judge(self, measured: LongPrompts) -> Judgement:
        """Judge the long answer, then the refusal."""
        size, sent = measured.size, measured.sent
        with within(f"a prompt of {sent} tokens"):
            completion = read(measured.near, Completion)
        counted = completion.usage.prompt_tokens
        figures = {
            "context_tokens": float(size),
            "prompt_tokens": float(counted),
            "prompt_seconds": measured.near.seconds,
        }
        if counted < sent - max(8, sent // 50):
            because = f"a prompt of about {sent} tokens was cut to {counted}"
            return failed(because, **figures)
        problem = self._answer_problem(completion)
        if problem := problem or _too_long_problem(measured.over, size):
            return failed(problem, **figures)
        aim = self._aim(size)
        if aim - counted > max(_NEAR_TOKENS, _NEAR * aim):
            return unclear(f"the prompt has {counted} of {aim} tokens only", **figures)
        found = " and its needle was found" if self.options.needle else ""
        return passed(
            f"a prompt of {counted} tokens was answered{found}, one beyond the "
            f"{size} of a slot was refused",
            **figures,
        )

    def _aim(self, size: int) -> int:
        return min(size, self.options.tokens or size)

    def _answer_problem(self, completion: Completion) -> str:
        message = completion.choices[0].message
        text = (message.content or "").strip()
        counted = completion.usage.prompt_tokens
        if not text and not (message.reasoning_content or "").strip():
            return f"a prompt of {counted} tokens is answered with nothing"
        needle = self.options.needle
        if needle is not None and needle.casefold() not in text.casefold():
            said = f"`{excerpt(text, 60)}`" if text else "thinking alone"
            middle = f"in the middle of {counted} tokens"
            return f"`{needle}` {middle} is answered with {said}"
        return ""

    def _body(self, sentences: int, max_tokens: int) -> Body:
        needle = self.options.needle
        hidden = f"The magic word is {needle}. " if needle else ""
        question = "What is the magic word?" if needle else "Which animal jumps?"
        before = sentences // 2
        text = PASSAGE * before + hidden + PASSAGE * (sentences - before) + question
        return chat_body(text, max_tokens)


def _too_long_problem(answer: Answer, size: int) -> str:
    """Return the fault of the answer to a prompt over the context."""
    if answer.status == 200:
        return f"a prompt over the {size} tokens of a slot is answered: it was cut"
    error = read_error(answer, TooLongAnswer)
    wanted = f"HTTP 400 `{_TOO_LONG}` with `n_prompt_tokens` and `n_ctx`"
    if answer.status != 400 or error is None or error.error.type != _TOO_LONG:
        said = f"HTTP {answer.status} `{excerpt(answer.body)}`"
        return f"a prompt over the context is answered with {said} instead of {wanted}"
    if error.error.n_ctx != size or error.error.n_prompt_tokens <= size:
        return (
            f"the refusal of a long prompt says {error.error.n_prompt_tokens} tokens "
            f"in a context of {error.error.n_ctx}, which is {size}"
        )
    return ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a wrong request is refused by the builds of a range, both ends included."""

    status: int
    type: str
    since: int = 0
    until: int = 10**9


@dataclass(frozen=True, slots=True)
class Row:
    """One wrong request, and how builds refuse it; one without content is a GET."""

    what: str
    refusals: tuple[Refusal, ...]
    path: str = CHAT
    content: bytes = b""
    keyed: bool = True
    """The request carries the key."""


_BAD_REQUEST: Final = (Refusal(400, "invalid_request_error"),)
_BROKEN_JSON: Final = (
    Refusal(500, "server_error", until=11433),
    Refusal(400, "invalid_request_error", since=10435),
)
_UNKNOWN_CHOICE: Final = (
    b'{"messages": [{"role": "user", "content": "hi"}], "tools": [], '
    b'"tool_choice": "sometimes", "max_tokens": 1}'
)
CONTRACT: Final = (
    Row("broken JSON", _BROKEN_JSON, content=b'{"messages": ['),
    Row("no messages", _BAD_REQUEST, content=b"{}"),
    Row("messages that are a number", _BAD_REQUEST, content=b'{"messages": 42}'),
    Row("an unknown tool_choice", _BAD_REQUEST, content=_UNKNOWN_CHOICE),
    Row("an unknown route", (Refusal(404, "not_found_error"),), "/v1/no-such-route"),
    Row("no key", (Refusal(401, "authentication_error"),), "/props", keyed=False),
)
"""Measured on b8672, b10434 and b11434; where a build between two of these changed it,
either answer is accepted of the builds between."""
_OVER: Final = Row("a prompt over the context", (Refusal(400, _TOO_LONG),))
_LOADING: Final = Row("loading", (Refusal(503, "unavailable_error"),), "/health")
"""While the model is not loaded, on every route and without a key too."""
_UNSEEN: Final = (
    "how it refuses while it loads was not seen: it had loaded when it was first asked"
)


@dataclass(frozen=True, slots=True)
class Refusals:
    """Wrong requests with their answers, and /props, which names the context."""

    attempts: tuple[tuple[Row, Answer], ...]
    props: Answer | None = None


class Errors(Gate[asked.Errors, Refusals]):
    """Every refusal has to be one that the build is known to give.

    HTTP 503 while loading cannot be asked for, because a server that is judged has
    loaded: the engine hands on what it saw while it waited, and the verdict says where
    it was not seen.
    """

    subject, limit = Subject.IDENTITY, 60

    async def measure(self, client: Client) -> Refusals:
        """Make every wrong request; none of them reaches the model."""
        attempts = []
        if (seen := self.target.process.loading) is not None:
            note = "seen by the engine while it waited for the server"
            client.keep(Exchange("GET /health", seen.status, seen.body, 0.0, note))
            body = seen.body.encode()
            attempts.append(
                (_LOADING, Answer(seen.status, "application/json", body, 0.0))
            )
        for row in CONTRACT:
            if row.content:
                attempts.append((row, await client.post_wrong(row.path, row.content)))
            elif row.keyed:
                attempts.append((row, await client.get(row.path)))
            elif self.target.api_key is not None:
                attempts.append((row, await client.get(row.path, headers={})))
        props = await client.get("/props")
        try:
            size = read(props, ContextProps).default_generation_settings.n_ctx
        except Broken:
            return Refusals(tuple(attempts), props)
        # A word is a token at least.
        words = "x " * (size + 8)
        content = b'{"messages": [{"role": "user", "content": "%s"}]}' % words.encode()
        attempts.append((_OVER, await client.post_wrong(CHAT, content)))
        return Refusals(tuple(attempts), props)

    def judge(self, measured: Refusals) -> Judgement:
        """Compare each refusal with those of the build."""
        if problems := list(self._problems(measured)):
            return failed("; ".join(problems))
        if measured.props is not None:
            read(measured.props, ContextProps)
        said = ", ".join(row.what for row, _ in measured.attempts)
        if any(row is _LOADING for row, _ in measured.attempts):
            return passed(f"refused as documented: {said}")
        if self.options.loading:
            return unclear(f"{_UNSEEN}; `deployer server restart` lets it be seen")
        return passed(f"refused as documented: {said}; {_UNSEEN}")

    def _problems(self, measured: Refusals) -> Iterator[str]:
        # What refuses how is shown by no source: the number that the server states.
        build = build_stated(measured.props) or self.target.build
        for row, answer in measured.attempts:
            allowed = {
                (refusal.status, refusal.type): None
                for refusal in row.refusals
                if build is None or refusal.since <= build <= refusal.until
            }
            error = read_error(answer, ErrorAnswer)
            given = None if error is None else (answer.status, error.error.type)
            if given not in allowed:
                wanted = " or ".join(f"{status} `{kind}`" for status, kind in allowed)
                said = f"{answer.status} `{excerpt(answer.body, 60)}`"
                yield f"{row.what}: {said} instead of {wanted}"


_BEYOND: Final = 4
"""How many contexts long the prompt beyond the limit is."""
_SIDE: Final = 4096
"""Pixels of a side of the large picture: 50 MB once it is decoded."""


@dataclass(frozen=True, slots=True)
class Beyond:
    """A request that is far too large, its answer, and the server after it."""

    attempts: tuple[tuple[str, Answer], ...]
    health: Answer
    after: Answer


class Limits(Gate[asked.Limits, Beyond]):
    """A request that is too large is refused with a clear 4xx, and the server lives."""

    subject, limit, alone = Subject.ANSWERS, 300, True

    async def measure(self, client: Client) -> Beyond:
        """Send a prompt of several contexts, a large picture, and a small request."""
        props = await client.get("/props")
        size = read(props, ContextProps).default_generation_settings.n_ctx
        words = "x " * (_BEYOND * size)
        attempts = [
            (
                f"a prompt of {_BEYOND} contexts",
                await client.post_wrong(CHAT, chat_body(words, 1)),
            )
        ]
        if read(props, _Sees).modalities.vision:
            body = picture_body("red", side=_SIDE)
            attempts.append(
                (f"an image of {_SIDE} pixels", await client.post_wrong(CHAT, body))
            )
        health = await client.get("/health")
        after = await client.post(CHAT, chat_body("Say hello.", _FEW))
        return Beyond(tuple(attempts), health, after)

    def judge(self, measured: Beyond) -> Judgement:
        """Require refusals that say why, and an answer after them."""
        for what, answer in measured.attempts:
            sees = what.startswith("an image")
            if answer.status == 200 and sees:
                continue
            if not 400 <= answer.status < 500:
                said = f"HTTP {answer.status} `{excerpt(answer.body)}`"
                return failed(f"{what} is answered with {said} instead of a 4xx")
            if not error_message(answer.body):
                said = excerpt(answer.body) or "nothing"
                return failed(f"{what} is refused without a reason: `{said}`")
        if measured.health.status != 200:
            return failed(f"after that /health answers {measured.health.status}")
        with within("after that"):
            read(measured.after, Completion)
        said = ", ".join(what for what, _ in measured.attempts)
        return passed(f"lives through {said}")


class _Modalities(Shape):
    vision: bool = False


class _Sees(Shape):
    modalities: _Modalities = _Modalities()
