"""The gates chat and stream: a chat completion, whole and in pieces."""

import asyncio
import base64
import re
import struct
import zlib
from dataclasses import dataclass
from typing import Final

from deployer.gates.harness.answers import (
    CHAT,
    PROMPT,
    QUESTION,
    Answer,
    Body,
    Broken,
    Completion,
    Event,
    Judgement,
    Shape,
    Streamed,
    chat_body,
    excerpt,
    fail,
    failed,
    first_choice,
    first_text_seconds,
    inapplicable,
    leak_in,
    ordered_chunks,
    passed,
    read,
    show_time,
    unclear,
    within,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.gate import Gate, Subject
from deployer.stack.fields import gate_options as asked
from deployer.stack.fields.values import JsonValue, seconds

_CHAT_TOKENS, _STREAM_TOKENS = 64, 32


class Chat(Gate[asked.Chat, Answer]):
    """Text has to be there, ended in order, counted, and contain what was asked for.

    A question that comes back, marks of turns and text without an end are no answer.
    """

    subject, limit = Subject.ANSWERS, 120

    async def measure(self, client: Client) -> Answer:
        """Ask once, greedily."""
        prompt = self.options.prompt or PROMPT
        return await client.post(CHAT, chat_body(prompt, self._most))

    def judge(self, measured: Answer) -> Judgement:
        """Look at everything that a client would stumble over."""
        completion = read(measured, Completion)
        figures = {
            "answer_seconds": measured.seconds,
            "completion_tokens": float(completion.usage.completion_tokens),
        }
        choice = completion.choices[0]
        text = (choice.message.content or "").strip()
        if problem := self._envelope_problem(completion) or self._text_problem(
            completion, text
        ):
            return failed(problem, **figures)
        if choice.finish_reason == "length" and self.options.max_tokens is None:
            return unclear(
                f"the answer did not end within {self._most} tokens: "
                f"`{excerpt(text, 60)}`; look at the chat template and its stop texts, "
                f"or raise `gates.chat.max_tokens`",
                **figures,
            )
        if period := _repeated(text):
            because = f"the answer repeats `{excerpt(period, 60)}` without an end"
            return unclear(because, **figures)
        return passed(f"answered `{excerpt(text, 60)}`", **figures)

    @property
    def _most(self) -> int:
        return self.options.max_tokens or _CHAT_TOKENS

    def _envelope_problem(self, completion: Completion) -> str:
        """Return what a client would stumble over before it comes to the text."""
        choice, usage = completion.choices[0], completion.usage
        if choice.message.role != "assistant":
            return f"the role is `{excerpt(choice.message.role)}`, not `assistant`"
        if choice.finish_reason not in {"stop", "length"}:
            reason = excerpt(str(choice.finish_reason))
            return f"`finish_reason` is `{reason}`, neither `stop` nor `length`"
        if usage.prompt_tokens < 1:
            return f"`usage` counts {usage.prompt_tokens} prompt tokens"
        if not 1 <= usage.completion_tokens <= self._most:
            return (
                f"`usage` counts {usage.completion_tokens} tokens of an answer "
                f"of at most {self._most}"
            )
        if usage.total_tokens != usage.prompt_tokens + usage.completion_tokens:
            return "`usage.total_tokens` is not the sum of prompt and completion"
        return ""

    def _text_problem(self, completion: Completion, text: str) -> str:
        if not text and completion.choices[0].message.reasoning_content:
            return (
                f"only thinking came within {self._most} tokens, no answer; "
                f"raise `gates.chat.max_tokens`"
            )
        if not text:
            return "the answer is empty"
        shown = f"`{excerpt(text)}`"
        if leak := leak_in(text):
            return f"`{leak}` of the chat template reached the client: {shown}"
        if _echoes(text, self.options.prompt or PROMPT):
            return f"the answer repeats the question: {shown}"
        wanted = self.options.contains
        if wanted is not None and wanted.casefold() not in text.casefold():
            return f"the answer does not contain `{wanted}`: {shown}"
        return ""


_ECHO_WORDS: Final = 4
"""A shorter question may be a part of its answer, such as a greeting."""
_PERIODS: Final = 3


def _echoes(text: str, prompt: str) -> bool:
    """Return whether a question is repeated, however it is punctuated."""
    said, asked_for = (re.findall(r"\w+", one.casefold()) for one in (text, prompt))
    if len(asked_for) < _ECHO_WORDS:
        return False
    return f" {' '.join(asked_for)} " in f" {' '.join(said)} "


def _repeated(text: str) -> str:
    """Return the sentence or line that an answer ends in three times; else empty."""
    lines = [it.strip() for it in re.split(r"(?<=[.!?])\s|\n", text) if it.strip()]
    # The last one may be cut.
    for ended in (lines, lines[:-1]):
        last = ended[-_PERIODS:]
        if len(last) == _PERIODS and len(set(last)) == 1:
            return last[0]
    return ""


class Stream(Gate[asked.Stream, Streamed | None]):
    """The frames, the order of the chunks, the text, and when it began.

    Nothing is measured where nothing comes within `ttft`: a server that hangs is not
    waited for.
    """

    subject, limit, alone = Subject.ANSWERS, 120, True

    async def measure(self, client: Client) -> Streamed | None:
        """Stream one greedy answer; hang up where nothing comes within `ttft`."""
        body = chat_body(
            PROMPT, _STREAM_TOKENS, stream=True, stream_options={"include_usage": True}
        )
        limit = None if self.options.ttft is None else seconds(self.options.ttft)
        patience = asyncio.timeout(limit)

        def hear(_: Event) -> None:
            patience.reschedule(None)

        try:
            async with patience:
                return await client.stream(CHAT, body, hear)
        except TimeoutError:
            return None

    def judge(self, measured: Streamed | None) -> Judgement:
        """Put the stream together as a client does."""
        ttft = self.options.ttft
        limit = None if ttft is None else seconds(ttft)
        most = f"more than the {show_time(limit or 0)} of `ttft`"
        if measured is None:
            fail(f"the first token took {most}")
        timed = ordered_chunks(measured)
        first = first_text_seconds(timed)
        figures = {
            "ttft_seconds": first,
            "stream_seconds": measured.answer.seconds,
            "chunks": float(len(timed)),
        }
        clocks = [one.chunk.timings for one in timed if one.chunk.timings]
        if clocks and clocks[-1].predicted_ms > 0:
            clock = clocks[-1]
            rate = 1000 * clock.predicted_n / clock.predicted_ms
            figures["tokens_per_second"] = rate
        took = show_time(first)
        if limit is not None and first > limit:
            return failed(f"the first token took {took}, {most}", **figures)
        return passed(f"{len(timed)} chunks, TTFT {took}", **figures)


_ON_TOKENS, _OFF_TOKENS = 256, 128
_SWITCHES: Final = ("enable_thinking", "reasoning_effort", "<think", "thinking")
"""Words of a chat template that can think."""
_LACKING: Final = (
    "the chat template of this model cannot think, it mentions none of "
    f"`{'`, `'.join(_SWITCHES)}`; leave the gate out"
)


@dataclass(frozen=True, slots=True)
class OnAndOff:
    """The same question with thinking on and off, and the chat template."""

    on: Answer
    off: Answer
    props: Answer


class TemplateProps(Shape):
    """The part of /props that contains the chat template."""

    chat_template: str


class Thinking(Gate[asked.Thinking, OnAndOff]):
    """Reasoning has to be there when it is on, and nowhere when it is off."""

    subject, limit = Subject.ANSWERS, 300

    async def measure(self, client: Client) -> OnAndOff:
        """Ask twice; `chat_template_kwargs` of the request make the difference."""
        props = await client.get("/props")
        thinks: Body = {"chat_template_kwargs": {"enable_thinking": True}}
        on = await client.post(CHAT, chat_body(QUESTION, _ON_TOKENS, **thinks))
        off = await client.post(CHAT, chat_body(QUESTION, _OFF_TOKENS))
        return OnAndOff(on, off, props)

    def judge(self, measured: OnAndOff) -> Judgement:
        """Compare the two answers."""
        on, off = (first_choice(one).message for one in (measured.on, measured.off))
        thought = (on.reasoning_content or "").strip()
        figures = {
            "on_seconds": measured.on.seconds,
            "off_seconds": measured.off.seconds,
        }
        if leak := leak_in(on.content, off.content):
            because = f"`{leak}` of the chat template stands in the answer"
            return failed(because, **figures)
        if not thought and knows_thinking(measured.props):
            return failed(
                "no reasoning came with thinking on, though the chat template can "
                "think; look at `server.reasoning` and `server.reasoning_format`"
            )
        if not thought:
            return inapplicable(_LACKING)
        if (off.reasoning_content or "").strip():
            return failed(
                "it thinks although `enable_thinking` is false: "
                "`chat_template_kwargs` of a request have no effect",
                **figures,
            )
        if not (off.content or "").strip():
            return failed("the answer without thinking is empty", **figures)
        words = len(thought.split())
        because = f"thinks when it is on ({words} words), and not when it is off"
        return passed(because, **figures)


def knows_thinking(answer: Answer) -> bool:
    """Return whether the chat template in /props mentions a way to think."""
    try:
        template = read(answer, TemplateProps).chat_template
    except Broken:
        return False
    return any(switch in template for switch in _SWITCHES)


_SLACK: Final = 16
_BEYOND: Final = 64
"""Tokens that the run without a budget gets beyond the largest budget."""
_ANSWER_TOKENS: Final = 256
_ALIKE: Final = 40
"""Letters of thinking that must not stand at the start of an answer."""


@dataclass(frozen=True, slots=True)
class Budgeted:
    """A run without a budget, one for each by its tokens, and the chat template."""

    unlimited: Streamed
    limited: tuple[tuple[int, Streamed], ...]
    props: Answer


@dataclass(frozen=True, slots=True)
class Thought:
    """The reasoning of a run, and its length in tokens."""

    content: str
    text: str
    tokens: int


class ThinkingBudget(Gate[asked.ThinkingBudget, Budgeted]):
    """Every budget has to be kept, though more was thought without one.

    A budget that is ignored looks right whenever a model thinks shortly by itself, so
    each run is compared with one without a budget.  The field `thinking_budget_tokens`
    is understood by every build that has budgets at all.
    """

    subject, limit = Subject.ANSWERS, 600

    async def measure(self, client: Client) -> Budgeted:
        """Ask the same question without a budget and with each."""

        async def run(max_tokens: int, limit: Body) -> Streamed:
            body = chat_body(
                QUESTION,
                max_tokens,
                chat_template_kwargs={"enable_thinking": True},
                stream=True,
                timings_per_token=True,
                **limit,
            )
            return await client.stream(CHAT, body)

        props = await client.get("/props")
        budgets = self.options.tokens
        most = max(budgets, default=0) + self._slack + _BEYOND
        own = self.target.whole("server.reasoning_budget")
        # A request without a budget has that of the server, where it has one.
        unlimited = await run(most, _budget(most) if own is not None else {})
        limited = [
            (one, await run(one + self._slack + _ANSWER_TOKENS, _budget(one)))
            for one in budgets
        ]
        return Budgeted(unlimited, tuple(limited), props)

    def judge(self, measured: Budgeted) -> Judgement:
        """Compare each budget with what was thought without one."""
        free = _thought(measured.unlimited)
        if not free.tokens and knows_thinking(measured.props):
            return unclear(
                "there is nothing to limit: no reasoning came without a budget either, "
                "though the chat template can think; look at `server.reasoning`"
            )
        if not free.tokens:
            return inapplicable(_LACKING)
        figures = {"unlimited_tokens": float(free.tokens)}
        unproved = []
        for budget, streamed in measured.limited:
            try:
                kept = _thought(streamed)
            except Broken as broken:
                fail(f"budget {budget}: {broken}", **figures)
            figures[f"budget_{budget}_tokens"] = float(kept.tokens)
            slack = self._slack if budget else 0
            if problem := _problem(kept, free, budget, slack):
                return failed(f"budget {budget}: {problem}", **figures)
            if free.tokens <= budget + slack or kept.tokens < budget // 2:
                unproved.append(str(budget))
        if unproved or not measured.limited:
            return unclear(
                f"budget {', '.join(unproved) or '(none)'} is not proved: thinking "
                f"ended by itself, after {free.tokens} tokens without a budget",
                **figures,
            )
        budgets = ", ".join(str(budget) for budget, _ in measured.limited)
        because = f"kept the budgets {budgets}; without one it thought {free.tokens}"
        return passed(f"{because} tokens or more", **figures)

    @property
    def _slack(self) -> int:
        return _SLACK if self.options.slack is None else self.options.slack


def _budget(tokens: int) -> Body:
    return {"thinking_budget_tokens": tokens}


def _problem(kept: Thought, free: Thought, budget: int, slack: int) -> str:
    """Return the fault of a run that had a budget; empty when there is none."""
    if leak := leak_in(kept.content, kept.text):
        return f"`{leak}` of the chat template stands in the answer"
    if kept.tokens > budget + slack:
        unlimited = "" if kept.tokens < free.tokens else ", as much as without a budget"
        return (
            f"thought {kept.tokens} tokens{unlimited}; builds b8665 to b8743 ignore "
            f"the budget of Gemma 4 unless they are patched"
        )
    # The marks around thinking count too: a budget of a few tokens may leave none.
    if budget > slack and not kept.tokens and free.tokens > budget + slack:
        return "no reasoning at all, though the budget allows some"
    if not kept.content:
        return "no answer followed the thinking"
    if kept.content.startswith(free.text[:_ALIKE]):
        return "the thinking came as the answer"
    return ""


def _thought(streamed: Streamed) -> Thought:
    """Return the reasoning of a stream, with llama-server's own count of its tokens.

    The count (`timings_per_token`) is that of the last piece of reasoning: splitting
    the text into tokens again would not give the ones it was made of.
    """
    content = text = ""
    pieces = counted = 0
    for chunk in (one.chunk for one in ordered_chunks(streamed)):
        for choice in chunk.choices:
            content += choice.delta.content or ""
            text += choice.delta.reasoning_content or ""
            if (choice.delta.reasoning_content or "").strip():
                pieces += 1
                counted = chunk.timings.predicted_n if chunk.timings else 0
    return Thought(content.strip(), text.strip(), max(pieces, counted))


_MAX_TOKENS: Final = 64
_SIDE: Final = 224
_LARGE_SIDE: Final = 1536
"""Pixels of a photograph: Gemma 4 makes more tokens of it than a batch of 512 holds."""
_IMAGE_TOKENS: Final = 8
"""A picture has more tokens than this, on every model so far."""
COLOURS: Final = {
    "red": (220, 20, 20),
    "green": (20, 180, 40),
    "blue": (20, 40, 220),
    "yellow": (240, 220, 20),
}


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture of one colour, and the answer about it."""

    colour: str
    answer: Answer
    large: bool = False


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures of different colours, and two of them in one request."""

    seen: tuple[Seen, ...]
    both: Answer | None


class Vision(Gate[asked.Vision, Pictures]):
    """Each answer has to name its colour, and none of the others.

    A model that always says red would pass with one red picture, so a second one of
    another colour is drawn.  Both are then shown in one request, which some builds do
    not survive: small models mix them up, so its tokens have to show that both were
    read.
    """

    subject, limit = Subject.ANSWERS, 300

    async def measure(self, client: Client) -> Pictures:
        """Show two pictures, one by one and together, and perhaps a large one."""
        first = self.options.colour or "red"
        second = "red" if first == "blue" else "blue"
        pair = (first, second)
        seen = [Seen(one, await client.post(CHAT, picture_body(one))) for one in pair]
        both = await client.post(CHAT, picture_body(first, second))
        if self.options.large:
            third = "yellow" if first == "green" else "green"
            body = picture_body(third, side=_LARGE_SIDE)
            seen.append(Seen(third, await client.post(CHAT, body), large=True))
        return Pictures(tuple(seen), both)

    def judge(self, measured: Pictures) -> Judgement:
        """Look for the colours, and count the tokens of two pictures."""
        figures: dict[str, float] = {}
        for seen in measured.seen:
            try:
                choice = first_choice(seen.answer)
            except Broken as broken:
                hint = "; state `model.mmproj`" if "mmproj" in str(broken) else ""
                one = broken.judgement
                return Judgement(one.outcome, f"{one.because}{hint}")
            size = "large " if seen.large else ""
            name = f"{size}{seen.colour}_seconds".replace(" ", "_")
            figures[name] = seen.answer.seconds
            text = (choice.message.content or "").casefold()
            others = [name for name in COLOURS if name != seen.colour and name in text]
            if seen.colour not in text or others:
                said = excerpt(text, 60) or "nothing"
                because = f"a {size}{seen.colour} image is answered with `{said}`"
                return failed(because, **figures)
        if len(measured.seen) < 2 or measured.both is None:
            return failed("fewer than two images were shown")
        with within("", **figures):
            _check_together(measured.seen[0].answer, measured.both)
        figures["pair_seconds"] = measured.both.seconds
        colours = " and a ".join(
            f"large {seen.colour}" if seen.large else seen.colour
            for seen in measured.seen
        )
        return passed(
            f"named the colours of a {colours} image, and read two in one request",
            **figures,
        )


def _check_together(alone: Answer, both: Answer) -> None:
    """Raise Broken unless both pictures of one request were read."""
    one = read(alone, Completion)
    with within("two images in one request"):
        two = read(both, Completion)
    if not (two.choices[0].message.content or "").strip():
        fail("two images in one request are answered with nothing")
    more = two.usage.prompt_tokens - one.usage.prompt_tokens
    if more < _IMAGE_TOKENS:
        fail(
            f"of two images in one request only one was read: the second adds {more} "
            f"tokens to the prompt"
        )


def picture(red: int, green: int, blue: int, *, side: int = _SIDE) -> bytes:
    """Draw a PNG of one colour (RFC 2083: signature, header, one strip, end)."""
    row = b"\0" + bytes((red, green, blue)) * side
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(row * side))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def picture_body(*colours: str, side: int = _SIDE) -> Body:
    """Return a request that shows pictures of these colours and asks for them."""
    content: list[JsonValue] = []
    for colour in colours:
        encoded = base64.b64encode(picture(*COLOURS[colour], side=side)).decode()
        url = f"data:image/png;base64,{encoded}"
        content.append({"type": "image_url", "image_url": {"url": url}})
    question = "Which colour is this image: red, green, blue or yellow? One word."
    if len(colours) > 1:
        question = "Which colours are these images? Name one for each."
    content.append({"type": "text", "text": question})
    messages: list[JsonValue] = [{"role": "user", "content": content}]
    return chat_body("", _MAX_TOKENS, messages=messages)
