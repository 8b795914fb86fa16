"""The tokens of the tiny model: Gemma 4's own marks, letters, and a few words."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from gguf import TokenType

COLOURS = {  # corners of the cube of red, green and blue
    "red": (1, -1, -1),
    "green": (-1, 1, -1),
    "blue": (-1, -1, 1),
    "yellow": (1, 1, -1),
    "cyan": (-1, 1, 1),
    "magenta": (1, -1, 1),
    "white": (1, 1, 1),
    "black": (-1, -1, -1),
}
_CONTROL = (
    *("<|turn>", "<turn|>", "<|think|>", "<|tool>", "<tool|>", "<|image>", "<image|>"),
    *("<|image|>", "<|audio>", "<audio|>", "<|audio|>", "<|video|>"),
)
# The chat parser has to see these, so they are no control tokens; upstream's
# conversion makes them user-defined too.
_VISIBLE = (
    *("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>"),
    *("<|tool_response>", "<tool_response|>", '<|"|>'),
)
_WHOLE_WORDS = ("thought", "model", "user", "system")
_THOUGHTS = [
    "let",
    "me",
    "think",
    "about",
    "this",
    "step",
    "by",
    "step",
    "and",
    "check",
    "each",
    "part",
    "of",
    "the",
    "question",
    "again",
]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What the model does when it is asked."""

    thoughts: int = 480
    """Words it thinks before it answers."""
    thinks: bool = True
    calls_tools: bool = True
    tool: str = "get_weather"
    argument: str = "city"
    value: str = "Paris"
    context: int = 32768


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens by number, and the numbers by the names the plan uses."""

    tokens: tuple[tuple[str, TokenType], ...]
    number: dict[Hashable, int]

    @property
    def merges(self) -> list[str]:
        """The steps by which the words of the chat template become one token."""
        steps = [f"{w[:i]} {w[i]}" for w in _WHOLE_WORDS for i in range(1, len(w))]
        return list(dict.fromkeys(steps))


def vocabulary(behaviour: Behaviour) -> Vocabulary:
    """Every token of a model that behaves so."""
    named = list(_tokens(behaviour))
    return Vocabulary(
        tuple((text, kind) for _, text, kind in named),
        {name: number for number, (name, _, _) in enumerate(named)},
    )


def _tokens(behaviour: Behaviour) -> Iterator[tuple[Hashable, str, TokenType]]:
    for text in ("<pad>", "<eos>", "<bos>"):
        yield text, text, TokenType.CONTROL
    yield "<unk>", "<unk>", TokenType.UNKNOWN
    for text in _CONTROL:
        yield text, text, TokenType.CONTROL
    for text in _VISIBLE:
        yield text, text, TokenType.USER_DEFINED
    for byte in range(256):
        text = f"<0x{byte:02X}>"
        yield text, text, TokenType.BYTE
    # Old builds do not print bytes: every printable character is a token as well.
    for text in ("\n", "\u2581", *map(chr, range(33, 127)), *_WHOLE_WORDS, "call:"):
        yield text, text, TokenType.NORMAL
    yield "TOOL", behaviour.tool, TokenType.NORMAL
    yield "ARGUMENT", f"{behaviour.argument}:", TokenType.NORMAL
    yield "VALUE", behaviour.value, TokenType.NORMAL
    for words in (
        *("The", "answer", "is", "42", "has", "answered", "ok"),
        *("The image", "The tool", "is mostly"),
        *COLOURS,
    ):
        yield f" {words}", _spaced(words), TokenType.NORMAL
    for step in range(behaviour.thoughts):
        word = _THOUGHTS[step % len(_THOUGHTS)]
        yield ("thought", step), _spaced(f"{word}\u00b7{step}"), TokenType.NORMAL


def _spaced(words: str) -> str:
    return f"\u2581{words}".replace(" ", "\u2581")
