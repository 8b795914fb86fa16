"""Gate vision: an image is seen, its colour is named in the answer.

A model that always says red would pass with one red picture, so a second one of
another colour is drawn.
"""

import base64
import struct
import zlib
from dataclasses import dataclass
from typing import Final

from deployer.core.gate_options import Vision
from deployer.core.values import JsonValue
from deployer.gates.answers import Answer, Judgement, excerpt, failed, passed
from deployer.gates.asking import Body, chat_body
from deployer.gates.client import Client
from deployer.gates.target import Target
from deployer.gates.thinking import first_choice

_MAX_TOKENS = 64
_SIDE = 224
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


@dataclass(frozen=True, slots=True)
class Measurement:
    """Two pictures of different colours."""

    seen: tuple[Seen, ...]


async def measure(client: Client, parameters: Vision, _target: Target) -> Measurement:
    """Show two pictures, one after the other."""
    first = parameters.colour or "red"
    colours = (first, "red" if first == "blue" else "blue")
    return Measurement(
        tuple(
            [
                Seen(one, await client.post("/v1/chat/completions", _body(one)))
                for one in colours
            ]
        )
    )


def judge(measurement: Measurement, _parameters: Vision, _target: Target) -> Judgement:
    """Each answer has to name its colour, and none of the others."""
    figures = {}
    for seen in measurement.seen:
        choice = first_choice(seen.answer)
        if isinstance(choice, Judgement):
            hint = ""
            if "mmproj" in choice.because:
                hint = "; state `model.mmproj`"
            return Judgement(choice.outcome, f"{choice.because}{hint}")
        figures[f"{seen.colour}_seconds"] = seen.answer.seconds
        text = (choice.message.content or "").casefold()
        others = [name for name in COLOURS if name != seen.colour and name in text]
        if seen.colour not in text or others:
            said = excerpt(text, 60) or "nothing"
            because = f"a {seen.colour} picture is answered with `{said}`"
            return failed(because, **figures)
    if len(measurement.seen) < 2:
        return failed("fewer than two pictures were shown")
    colours = " and a ".join(seen.colour for seen in measurement.seen)
    return passed(f"named the colours of a {colours} picture", **figures)


def picture(red: int, green: int, blue: int) -> bytes:
    """A PNG of one colour (RFC 2083: signature, header, one strip, end)."""
    row = b"\0" + bytes((red, green, blue)) * _SIDE
    header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(row * _SIDE))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def _body(colour: str) -> Body:
    encoded = base64.b64encode(picture(*COLOURS[colour])).decode()
    url = f"data:image/png;base64,{encoded}"
    question = "Which colour is this picture: red, green, blue or yellow? One word."
    content: list[JsonValue] = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": question},
    ]
    messages: list[JsonValue] = [{"role": "user", "content": content}]
    return chat_body("", _MAX_TOKENS, messages=messages)
