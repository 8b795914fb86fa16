"""The gate audio: a sound is heard."""

import base64
import io
import math
import struct
import wave
from typing import Final

from deployer.gates.harness.answers import (
    CHAT,
    Answer,
    Broken,
    Completion,
    Judgement,
    chat_body,
    excerpt,
    failed,
    passed,
    read,
    within,
)
from deployer.gates.harness.client import Client
from deployer.gates.harness.gate import Gate, Subject
from deployer.stack.fields import gate_options as asked
from deployer.stack.fields.values import JsonValue

_MAX_TOKENS: Final = 64
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
