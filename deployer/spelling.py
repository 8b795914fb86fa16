"""Words of a user in messages: what was meant, and what may be printed."""

import re
from collections.abc import Iterable, Mapping

LONGEST = 80
"""Characters; a longer word is no slip of the finger, and costs time to compare."""
_SECRET = re.compile("KEY|TOKEN|SECRET|PASSW|CREDENTIAL|INDEX_URL", re.IGNORECASE)
_SHORTEST_SECRET = 8
_SPOKEN = frozenset(
    map(chr, (0xA0, *range(0x2000, 0x200B), 0x200C, 0x200D, 0x202F, 0x205F, 0x3000))
)
"""Cannot be seen and do no harm: typography, and what emojis are joined with."""


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The one of the words that comes closest, or None if none is close."""
    from difflib import get_close_matches  # noqa: PLC0415 - paid for only on trouble

    plain = {_plain(known): known for known in words}
    if len(word) > LONGEST:
        return None
    if found := get_close_matches(_plain(word), plain, n=1, cutoff=0.6):
        return plain[found[0]]
    return None


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """A hint that names the nearest word; empty if none is close."""
    found = nearest(word, words)
    return f"did you mean `{found}`?" if found else ""


def one_of(words: Iterable[object]) -> str:
    """A choice in words: `` `a` ``, `` `a` or `b` ``, ``one of `a`, `b`, `c` ``."""
    quoted = [f"`{word}`" for word in words]
    if len(quoted) <= 2:
        return " or ".join(quoted)
    return f"one of {', '.join(quoted)}"


def shown(text: str, *, longest: int = 60) -> str:
    """One line, no control characters, and cut when it is long."""
    start = text[: longest + 1]
    clean = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in start)
    return clean if len(text) <= longest else f"{clean[: longest - 1]}…"


def harmless(text: str) -> str:
    """Text in which nothing moves the cursor, colours, or turns the order of reading.

    Lines and tabs stay; everything else that cannot be seen is written out.
    """
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text
    keeps = {"\n", "\t"}
    return "".join(c if c.isprintable() or c in keeps else ascii(c)[1:-1] for c in text)


def json_harmless(text: str) -> str:
    """The same JSON, with what cannot be seen as escapes: a text stays what it was."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _unseen(c) for c in text)


def _unseen(character: str) -> str:
    """The escape of JSON for a character; DEL is the one that ASCII would let pass."""
    if character == "\x7f":
        return "\\u007f"
    from json import dumps  # noqa: PLC0415 - slow to import, and rarely needed

    return dumps(character)[1:-1]


def speakable(text: str) -> str:
    """Return text of a model, `harmless`: spaces of every width and joiners stay."""
    if text.isprintable():
        return text
    return "".join(c if c in _SPOKEN else harmless(c) for c in text)


def is_secret_name(name: str) -> bool:
    """Return whether what has this name is a secret, in an environment or a file."""
    return bool(_SECRET.search(name))


def secrets_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of secret variables, by their names; longest first."""
    found = (
        value
        for name, value in environment.items()
        if _SECRET.search(name) and len(value) >= _SHORTEST_SECRET
    )
    return tuple(sorted(found, key=len, reverse=True))


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """The text without them: an error of a library may quote what it was given."""
    for secret in secrets:
        text = text.replace(secret, "[redacted]")
    return text


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")
