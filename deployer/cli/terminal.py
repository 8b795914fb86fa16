"""stdout and stderr in which no text moves the cursor or turns the order of reading.

The last of several guards: whatever a command prints, of a stack, a server or a file
name, goes through here.  Colours are put on here as well, by how a line begins, and
lines are wrapped for a terminal: every command prints plain text.  What is to stay as
it is, goes around it, by `styled`.
"""

import io
import os
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Final, TextIO, cast

from deployer.spelling import harmless

if TYPE_CHECKING:
    import re

_CODES: Final = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "cyan": "36",
}
_SIGNS: Final = {
    **dict.fromkeys("✔+●", "green"),
    **dict.fromkeys("✖-", "red"),
    **dict.fromkeys("▲!~±↻?↑", "yellow"),
    **dict.fromkeys("◌→≤$", "cyan"),
    "·": "dim",
}
"""The colour of a line's sign, and of its verb or outcome."""
_PATTERNS: Final = {
    "problem": r"((?:\S+:\d+:\d+: |\S+\.ya?ml: )?)(error|warning|note):(?= )",
    "hint": r" +(hint|fix):(?= )|hint:(?= )",
    "excerpt": r"( +\d* \|)( *)(\^+ ?\S*)?",
    "sign": r"( *)([✔+●✖▲!~±↻?↑◌→≤$·-])(?= +\S)",
    "change": r"( {6,}[\w.\[\]-]+ {3})(.+?) → (.+?)( {2,}\S+:\d+)?$",
    "heading": r"[A-Z][\w ,]*:$|(?:Plan: |No changes).*|Release \d+ is live at .*",
    "stack": r"(\S+)(?= on \w+ · )",
    "outcome": r"\b(pass|passed|fail|failed|inconclusive|error|not measured)(?=[: ])",
    "verb": r" {2,}([a-z-]+(?: [a-z()]+){0,3})$",
}
"""How lines begin, and what of them is coloured; compiled where there are colours."""


class Escaped:
    """A stream of text that writes out control characters; all else is its own."""

    def __init__(self, stream: TextIO) -> None:
        self.styled = stream
        self.colour = wants_colour(stream, os.environ)

    def write(self, text: str | bytes) -> int:
        """Write text that cannot do harm; raises TypeError for no bytes at all."""
        if isinstance(text, bytes):
            if not text:  # click tries, to tell a stream of text from one of bytes
                raise TypeError(type(text))
            text = text.decode()  # what it completes for a shell
        return self.styled.write(self.dressed(harmless(text)))

    def dressed(self, text: str) -> str:
        """Harmless text as it is written: wrapped for a terminal, and in colours."""
        if self.styled.isatty():
            text = "".join(_wrapped(text, os.get_terminal_size(self.fileno()).columns))
        if self.colour:
            text = "".join(map(painted, text.splitlines(keepends=True)))
        return text

    def writelines(self, lines: "list[str]") -> None:
        """Write several."""
        self.write("".join(lines))

    def fileno(self) -> int:
        """The descriptor of the stream."""
        return self.styled.fileno()

    def __getattr__(self, name: str) -> object:
        if name == "buffer":  # click would write around this one
            raise AttributeError(name)
        return getattr(self.styled, name)


def escape_streams() -> None:
    """Escape stdout and stderr; what their encoding lacks becomes a question mark."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
            setattr(sys, name, Escaped(stream))


def styled(stream: TextIO) -> TextIO:
    """The stream for text that carries colours of our own, and is harmless already."""
    return cast("TextIO", getattr(stream, "styled", stream))


def wants_colour(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Return whether text on a stream is coloured, as far as the environment says."""
    if environment.get("NO_COLOR"):
        return False
    if forced := environment.get("FORCE_COLOR"):
        return forced != "0"
    return stream.isatty() and environment.get("TERM") != "dumb"


def choose_colour(mode: str) -> None:
    """Colour both streams `always` or `never`; `auto` is what `wants_colour` says."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, Escaped) and mode != "auto":
            stream.colour = mode == "always"


def is_coloured(stream: TextIO) -> bool:
    """Return whether what is written to the stream is coloured."""
    return isinstance(stream, Escaped) and stream.colour


def style(text: str, *names: str) -> str:
    """The text in colours."""
    codes = ";".join(_CODES[name] for name in names)
    return f"\x1b[{codes}m{text}\x1b[0m" if text else text


@cache
def _patterns() -> "Mapping[str, re.Pattern[str]]":
    import re  # noqa: PLC0415 - compiled only where there are colours

    return {name: re.compile(pattern) for name, pattern in _PATTERNS.items()}


def painted(line: str) -> str:
    """The line in colours, by how it begins; what is not known stays plain."""
    text = line.rstrip("\n")
    end = line[len(text) :]
    by = _patterns()
    if found := by["problem"].match(text):
        colour = {"error": "red", "warning": "yellow"}.get(found[2], "blue")
        place, word = style(found[1], "bold"), style(f"{found[2]}:", colour, "bold")
        return f"{place}{word}{text[found.end() :]}{end}"
    if found := by["hint"].match(text):
        return f"{style(found[0], 'cyan')}{text[found.end() :]}{end}"
    if (found := by["excerpt"].match(text)) and "|" in found[0]:
        gutter, carets = style(found[1], "blue"), style(found[3] or "", "red")
        return f"{gutter}{found[2]}{carets}{text[found.end() :]}{end}"
    if found := by["change"].match(text):
        old, new = style(found[2], "red"), style(found[3], "green")
        return f"{found[1]}{old} → {new}{style(found[4] or '', 'dim')}{end}"
    if found := by["sign"].match(text):
        return f"{found[1]}{_signed(text[found.end(1) :], _SIGNS[found[2]])}{end}"
    if by["heading"].match(text):
        return f"{style(text, 'bold')}{end}"
    if found := by["stack"].match(text):
        return f"{style(found[0], 'bold')}{style(text[found.end() :], 'dim')}{end}"
    return line


def _signed(text: str, colour: str) -> str:
    """A line behind its margin: sign and outcome, or verb, in the colour."""
    by = _patterns()
    if colour == "dim":
        return style(text, colour)
    head, rest = style(text[0], colour, "bold"), text[1:]
    if found := by["outcome"].search(rest[:40]) or by["verb"].search(rest):
        word = style(found[1], colour)
        return f"{head}{rest[: found.start(1)]}{word}{rest[found.end(1) :]}"
    return f"{head}{rest}"


_AS_THEY_ARE: Final = ("curl ", "| ", '"', "{", "}", "[", "]", "$ ", "# ", "echo ")
"""Beginnings of lines to copy, of tables and of JSON, which a terminal may break."""


def _wrapped(text: str, width: int) -> Iterator[str]:
    """Yield lines that fit, broken between words, below where their text begins."""
    for line in text.splitlines(keepends=True):
        bare = line.lstrip(" ")
        if (
            len(line) <= width
            or not line.endswith("\n")
            or width < 40
            or bare.startswith(_AS_THEY_ARE)
            or bare.partition(" ")[0].isdigit()
        ):
            yield line
        else:
            from textwrap import wrap  # noqa: PLC0415 - few lines are too long

            indent = len(line) - len(bare)
            hanging = bare[:1] in _SIGNS or bare.startswith(("hint:", "note:"))
            yield "\n".join(
                wrap(
                    line.rstrip("\n"),
                    width,
                    subsequent_indent=" " * (indent + 2 * hanging),
                    break_long_words=False,
                    break_on_hyphens=False,
                )
            )
            yield "\n"
