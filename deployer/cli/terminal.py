"""stdout and stderr in which no text moves the cursor or turns the order of reading.

The last of several guards: whatever a command prints, of a stack, a server or a file
name, goes through here.  What deployer styles itself goes around it, by `styled`.
"""

import io
import sys
from typing import TextIO, cast

from deployer.spelling import harmless


class Escaped:
    """A stream of text that writes out control characters; all else is its own."""

    def __init__(self, stream: TextIO) -> None:
        self.styled = stream

    def write(self, text: str | bytes) -> int:
        """Write text that cannot do harm; raises TypeError for no bytes at all."""
        if isinstance(text, bytes):
            if not text:  # click tries, to tell a stream of text from one of bytes
                raise TypeError(type(text))
            text = text.decode()  # what it completes for a shell
        return self.styled.write(harmless(text))

    def writelines(self, lines: "list[str]") -> None:
        """Write several."""
        self.write("".join(lines))

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
