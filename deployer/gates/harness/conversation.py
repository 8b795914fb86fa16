"""A chat with a live server: pieces of an answer as they come, and what it took.

Tokens and their speed are the server's own numbers; where it tells none, the clock
of this side stands in and says so.  The time to the first token is always of this
side: no server knows when its first token arrived.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Final

from pydantic import ValidationError

from deployer.errors import AuthError, EngineError, UsageError
from deployer.gates.harness.answers import (
    DONE,
    Answer,
    Broken,
    Chunk,
    ErrorAnswer,
    Event,
    Shape,
    Streamed,
    Timings,
    Usage,
    error_message,
    events_of,
    refused,
)
from deployer.gates.harness.client import Client, Target, Unanswered, connected
from deployer.stack.fields.values import JsonValue

_PATH: Final = "/v1/chat/completions"
_TOO_LONG: Final = "exceed_context_size_error"


class _Details(Shape):
    cached_tokens: int | None = None


class _Usage(Usage):
    prompt_tokens_details: _Details | None = None


class _Timings(Timings):
    cache_n: int | None = None


class _Chunk(Chunk):
    usage: _Usage | None = None
    timings: _Timings | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """Some letters of an answer."""

    text: str
    thinking: bool


@dataclass(frozen=True, slots=True)
class Figures:
    """The cost of an answer; None for an unknown figure."""

    tokens: int | None = None
    thought: int | None = None
    """The tokens by the last piece of thinking."""
    per_second: float | None = None
    measured_here: bool = False
    """The speed is by the clock of this side, network included."""
    first_seconds: float | None = None
    """Until the first piece of text, by the clock of this side."""
    prompt: int | None = None
    cached: int | None = None
    """Tokens of the prompt that were not read again."""


@dataclass(frozen=True, slots=True)
class Said:
    """An answer, as far as it came."""

    text: str
    figures: Figures
    cut: bool = False
    """The limit of tokens or the context ended it."""
    ended: bool = False
    """The user ended it."""
    stop: str = ""
    """Why the server stopped by itself, in its word."""


Hear = Callable[[Piece], None]


class Conversation:
    """The messages so far, and the server that gets them."""

    def __init__(
        self,
        target: Target,
        *,
        model: str = "",
        system: str = "",
        budget: int | None = None,
        limit: int | None = None,
        hint: str = "",
    ) -> None:
        self.system = system
        self.attached: list[JsonValue] = []
        """Parts of the next message before its text, as the API has them."""
        self._limit = limit
        self._target = target
        self._model = model
        self._budget = budget
        self._hint = hint
        """Where to look when the server does not do its part."""
        self._messages: list[JsonValue] = []

    def clear(self) -> None:
        """Forget what was said; the system prompt stays."""
        self._messages.clear()

    def ask(self, prompt: str, hear: Hear) -> Said:
        """Ask, and hear the answer piece by piece; Ctrl-C ends it.

        What failed is not part of the conversation.  Raises AuthError, UsageError for
        a prompt over the context, and EngineError.
        """
        text: JsonValue = {"type": "text", "text": prompt}
        content: JsonValue = [*self.attached, text] if self.attached else prompt
        asked: JsonValue = {"role": "user", "content": content}
        heard = _Heard(hear)
        ended = False
        try:
            streamed = asyncio.run(self._streamed(self._body(asked), heard))
        except KeyboardInterrupt:
            ended = True
        except Unanswered as error:
            raise EngineError(str(error), self._hint) from error
        else:
            self._refuse(streamed, heard)
        self.attached = []
        if heard.text:
            said: JsonValue = {"role": "assistant", "content": heard.text}
            self._messages += [asked, said]
        cut = heard.finish == "length"
        stop = "" if cut or ended else heard.finish
        return Said(heard.text, heard.figures(), cut=cut, ended=ended, stop=stop)

    def _body(self, asked: JsonValue) -> dict[str, JsonValue]:
        system: JsonValue = {"role": "system", "content": self.system}
        before = [system] if self.system else []
        body: dict[str, JsonValue] = {
            "messages": [*before, *self._messages, asked],
            "stream": True,
            "stream_options": {"include_usage": True},
            "timings_per_token": True,
        }
        if self._model:
            body["model"] = self._model
        if self._budget is not None:
            body["thinking_budget_tokens"] = self._budget
        if self._limit is not None:
            body["max_tokens"] = self._limit
        return body

    async def _streamed(self, body: dict[str, JsonValue], heard: "_Heard") -> Streamed:
        async with connected(self._target) as http:
            client = Client(http, self._target, patient=False)
            return await client.stream(_PATH, body, heard.event)

    def _refuse(self, streamed: Streamed, heard: "_Heard") -> None:
        """Raise what is wrong with an answer."""
        if streamed.answer.status != HTTPStatus.OK:
            raise _refusal(streamed.answer, self._hint)
        if heard.problem:
            raise EngineError(heard.problem, self._hint)
        if streamed.broke:
            why = f"the server broke off in mid-answer: {streamed.broke}"
            raise EngineError(why, self._hint)
        try:
            events_of(streamed)
        except Broken as broken:
            raise EngineError(str(broken), self._hint) from broken
        if not heard.done:
            raise EngineError(f"the answer ended without `{DONE}`", self._hint)


@dataclass(slots=True)
class _Heard:
    """Puts an answer together while it comes."""

    hear: Hear
    text: str = ""
    finish: str = ""
    problem: str = ""
    done: bool = False
    first: float | None = None
    last: float = 0.0
    thought: int | None = None
    usage: _Usage | None = None
    timings: _Timings | None = field(default=None)

    def event(self, event: Event) -> None:
        """Take one event of the stream."""
        if event.data == DONE:
            self.done = True
            return
        try:
            chunk = _Chunk.model_validate_json(event.data)
        except ValidationError:
            told = error_message(event.data)
            said = f"an error: {told}" if told else "something that is no answer"
            self.problem = self.problem or f"the server sent {said}"
            return
        self.usage = chunk.usage or self.usage
        self.timings = chunk.timings or self.timings
        for choice in chunk.choices:
            self.finish = choice.finish_reason or self.finish
            self._piece(choice.delta.reasoning_content, event, thinking=True)
            self._piece(choice.delta.content, event, thinking=False)

    def _piece(self, text: str | None, event: Event, *, thinking: bool) -> None:
        if not text:
            return
        self.first = event.seconds if self.first is None else self.first
        self.last = event.seconds
        if not thinking:
            self.text += text
        elif self.timings is not None:
            self.thought = self.timings.predicted_n
        self.hear(Piece(text, thinking))

    def figures(self) -> Figures:
        """Return what the server counted, or else what was seen here."""
        found = Figures(first_seconds=self.first, thought=self.thought)
        if (usage := self.usage) is not None:
            details = usage.prompt_tokens_details
            found = replace(
                found,
                tokens=usage.completion_tokens,
                prompt=usage.prompt_tokens,
                cached=details.cached_tokens if details else None,
            )
        if (timings := self.timings) is not None:
            cached = timings.cache_n if found.cached is None else found.cached
            read = None if cached is None else cached + timings.prompt_n
            prompt = read if found.prompt is None else found.prompt
            tokens = timings.predicted_n
            found = replace(found, cached=cached, prompt=prompt, tokens=tokens)
        return self._speed(found)

    def _speed(self, found: Figures) -> Figures:
        timings = self.timings
        if timings is not None and timings.predicted_ms > 0:
            rate = 1000 * timings.predicted_n / timings.predicted_ms
            return replace(found, per_second=rate)
        took = self.last - (self.first or 0.0)
        if found.tokens is None or self.first is None or took <= 0:
            return found
        return replace(found, per_second=found.tokens / took, measured_here=True)


def _refusal(answer: Answer, hint: str) -> Exception:
    """Return what a refused request means."""
    message = error_message(answer.body)
    match answer.status:
        case 401 | 403:
            return AuthError(
                f"the server refuses the key: {message or f'HTTP {answer.status}'}",
                hint="the variable of `auth.api_key` contains another key than the"
                " server was started with; with `--url`, `--api-key-env NAME` names it",
            )
        case 503:
            return EngineError(
                f"the server is not ready: {message or 'HTTP 503'}",
                hint=hint and f"it loads its model, or has no room: {hint}",
            )
        case 400 if _kind(answer) == _TOO_LONG:
            return UsageError(
                f"the conversation does not fit into the context: {message}",
                hint="`/clear` forgets what was said; `server.ctx_size` is its size",
            )
        case _:
            return EngineError(refused(answer).because, hint)


def _kind(answer: Answer) -> str:
    try:
        return ErrorAnswer.model_validate_json(answer.body).error.type
    except ValidationError:
        return ""
