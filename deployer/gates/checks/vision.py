"""The gates vision and audio: an image is seen, a sound is heard."""

import base64
import io
import math
import struct
import wave
import zlib
from dataclasses import dataclass
from typing import Final

from deployer.gates.harness.answers import (
    Answer,
    Broken,
    Completion,
    Judgement,
    excerpt,
    fail,
    failed,
    first_choice,
    passed,
    read,
    within,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.gate import Gate, Subject
from deployer.gates.harness.requests import CHAT, Body, chat_body
from deployer.stack.fields import gate_options as asked
from deployer.stack.fields.values import JsonValue

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
                because = f"a {size}{seen.colour} picture is answered with `{said}`"
                return failed(because, **figures)
        if len(measured.seen) < 2 or measured.both is None:
            return failed("fewer than two pictures were shown")
        with within("", **figures):
            _check_together(measured.seen[0].answer, measured.both)
        figures["pair_seconds"] = measured.both.seconds
        colours = " and a ".join(
            f"large {seen.colour}" if seen.large else seen.colour
            for seen in measured.seen
        )
        return passed(
            f"named the colours of a {colours} picture, and read two in one request",
            **figures,
        )


def _check_together(alone: Answer, both: Answer) -> None:
    """Raise Broken unless both pictures of one request were read."""
    one = read(alone, Completion)
    with within("two pictures in one request"):
        two = read(both, Completion)
    if not (two.choices[0].message.content or "").strip():
        fail("two pictures in one request are answered with nothing")
    more = two.usage.prompt_tokens - one.usage.prompt_tokens
    if more < _IMAGE_TOKENS:
        fail(
            f"of two pictures in one request only one was read: the second adds {more} "
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
    question = "Which colour is this picture: red, green, blue or yellow? One word."
    if len(colours) > 1:
        question = "Which colours are these pictures? Name one for each."
    content.append({"type": "text", "text": question})
    messages: list[JsonValue] = [{"role": "user", "content": content}]
    return chat_body("", _MAX_TOKENS, messages=messages)


_RATE: Final = 16_000
_PITCH: Final = 440
_AUDIO_TOKENS: Final = 4
"""A second of sound has more tokens than this, on every model so far."""
_LISTEN: Final = "Describe this sound in one sentence."


class Audio(Gate[asked.Audio, tuple[Answer, Answer]]):
    """A request with a sound is answered, and its tokens show that it was read."""

    subject, limit = Subject.ANSWERS, 300

    async def measure(self, client: Client) -> tuple[Answer, Answer]:
        """Ask the same with a sound and without."""
        encoded = base64.b64encode(tone()).decode()
        sound: JsonValue = {"data": encoded, "format": "wav"}
        content: list[JsonValue] = [
            {"type": "input_audio", "input_audio": sound},
            {"type": "text", "text": _LISTEN},
        ]
        messages: list[JsonValue] = [{"role": "user", "content": content}]
        heard = await client.post(CHAT, chat_body("", _MAX_TOKENS, messages=messages))
        return heard, await client.post(CHAT, chat_body(_LISTEN, 1))

    def judge(self, measured: tuple[Answer, Answer]) -> Judgement:
        """Require an answer, and a longer prompt than without the sound."""
        heard, plain = measured
        try:
            with_sound = read(heard, Completion)
        except Broken as broken:
            hint = "; state `model.mmproj`" if "mmproj" in str(broken) else ""
            one = broken.judgement
            return Judgement(one.outcome, f"{one.because}{hint}")
        with within("without a sound"):
            without = read(plain, Completion)
        text = (with_sound.choices[0].message.content or "").strip()
        more = with_sound.usage.prompt_tokens - without.usage.prompt_tokens
        figures = {"sound_tokens": float(more), "sound_seconds": heard.seconds}
        if not text:
            return failed("a sound is answered with nothing", **figures)
        if more < _AUDIO_TOKENS:
            because = f"the sound was not read: it adds {more} tokens to the prompt"
            return failed(because, **figures)
        said = f"`{excerpt(text, 60)}`"
        return passed(f"a sound of {more} tokens is answered with {said}", **figures)


def tone() -> bytes:
    """Return a WAV of one second of one tone."""
    samples = (
        round(20_000 * math.sin(2 * math.pi * _PITCH * at / _RATE))
        for at in range(_RATE)
    )
    with io.BytesIO() as content:
        with wave.open(content, "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(_RATE)
            sound.writeframes(b"".join(struct.pack("<h", one) for one in samples))
        return content.getvalue()
