"""Gate vision: an image is seen, its colour is named in the answer.

A model that always says red would pass with one red picture, so a second one of
another colour is drawn.  Both are then shown in one request, which some builds do not
survive: small models mix them up, so its tokens have to show that both were read.
"""

import base64
import struct
import zlib
from dataclasses import dataclass
from typing import Final

from deployer.gates.checks.thinking import first_choice
from deployer.gates.harness.answers import (
    Answer,
    Completion,
    Judgement,
    excerpt,
    failed,
    passed,
    read,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.requests import Body, chat_body
from deployer.gates.harness.target import Target
from deployer.stack.fields.gate_options import Vision
from deployer.stack.fields.values import JsonValue

_MAX_TOKENS = 64
_PATH = "/v1/chat/completions"
_SIDE = 224
_LARGE_SIDE = 1536
"""Pixels of a photograph: Gemma 4 makes more tokens of it than a batch of 512 holds."""
_IMAGE_TOKENS = 8
"""A picture has more tokens than this, on every model so far."""
COLOURS: Final = {
    "red": (220, 20, 20),
    "green": (20, 180, 40),
    "blue": (20, 40, 220),
    "yellow": (240, 220, 20),
}


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture of one colour, and what was said about it."""

    colour: str
    answer: Answer
    large: bool = False


@dataclass(frozen=True, slots=True)
class Measurement:
    """Pictures of different colours, and two of them in one request."""

    seen: tuple[Seen, ...]
    both: Answer | None


async def measure(client: Client, parameters: Vision, _target: Target) -> Measurement:
    """Show two pictures, one after the other and together, and perhaps a large one."""
    first = parameters.colour or "red"
    second = "red" if first == "blue" else "blue"
    seen = [Seen(one, await client.post(_PATH, _body(one))) for one in (first, second)]
    both = await client.post(_PATH, _body(first, second))
    if parameters.large:
        third = "yellow" if first == "green" else "green"
        body = _body(third, side=_LARGE_SIDE)
        seen.append(Seen(third, await client.post(_PATH, body), large=True))
    return Measurement(tuple(seen), both)


def judge(measurement: Measurement, _parameters: Vision, _target: Target) -> Judgement:
    """Each answer has to name its colour, and none of the others."""
    figures: dict[str, float] = {}
    for seen in measurement.seen:
        choice = first_choice(seen.answer)
        if isinstance(choice, Judgement):
            hint = ""
            if "mmproj" in choice.because:
                hint = "; state `model.mmproj`"
            return Judgement(choice.outcome, f"{choice.because}{hint}")
        size = "large_" if seen.large else ""
        figures[f"{size}{seen.colour}_seconds"] = seen.answer.seconds
        text = (choice.message.content or "").casefold()
        others = [name for name in COLOURS if name != seen.colour and name in text]
        if seen.colour not in text or others:
            said = excerpt(text, 60) or "nothing"
            kind = "large " if seen.large else ""
            because = f"a {kind}{seen.colour} picture is answered with `{said}`"
            return failed(because, **figures)
    if len(measurement.seen) < 2 or measurement.both is None:
        return failed("fewer than two pictures were shown")
    together = _together(measurement.seen[0].answer, measurement.both)
    if isinstance(together, Judgement):
        return Judgement(together.outcome, together.because, figures)
    figures["pair_seconds"] = measurement.both.seconds
    colours = " and a ".join(
        f"large {seen.colour}" if seen.large else seen.colour
        for seen in measurement.seen
    )
    return passed(
        f"named the colours of a {colours} picture, and read two in one request",
        **figures,
    )


def _together(alone: Answer, both: Answer) -> Judgement | None:
    """Return what is wrong with the answer to two pictures; None when nothing is."""
    one, two = read(alone, Completion), read(both, Completion)
    if isinstance(one, Judgement):
        return one
    if isinstance(two, Judgement):
        return Judgement(two.outcome, f"two pictures in one request: {two.because}")
    if not (two.choices[0].message.content or "").strip():
        return failed("two pictures in one request are answered with nothing")
    more = two.usage.prompt_tokens - one.usage.prompt_tokens
    if more < _IMAGE_TOKENS:
        return failed(
            f"of two pictures in one request only one was read: the second adds {more} "
            f"tokens to the prompt"
        )
    return None


def picture(red: int, green: int, blue: int, *, side: int = _SIDE) -> bytes:
    """A PNG of one colour (RFC 2083: signature, header, one strip, end)."""
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


def _body(*colours: str, side: int = _SIDE) -> Body:
    content: list[JsonValue] = []
    for colour in colours:
        encoded = base64.b64encode(picture(*COLOURS[colour], side=side)).decode()
        url = f"data:image/png;base64,{encoded}"
        content.append({"type": "image_url", "image_url": {"url": url}})
    question = "Which colour is this picture: red, green, blue or yellow? One word."
    if len(colours) > 1:
        question = "Which colours are these pictures? Name one for each."
    content.append({"type": "text", "text": question})
    messages: list[JsonValue] = [{"role": "user", "content": content}]
    return chat_body("", _MAX_TOKENS, messages=messages)
