"""A program run in a terminal of its own, and what stood on it as an SVG."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Final

import pyte
from pyte.screens import Char

COLUMNS: Final = 100
_ROWS: Final = 200  # nothing scrolls away
_WIDTH, _HEIGHT, _SIZE, _EDGE, _BAR = 8.4, 19, 14, 16, 30
_FONT: Final = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
_INK: Final = "#d7dae0"
_COLOURS: Final[Mapping[str, str]] = {
    "black": "#5c6370",
    "red": "#e06c75",
    "green": "#98c379",
    "brown": "#e5c07b",
    "blue": "#61afef",
    "magenta": "#c678dd",
    "cyan": "#56b6c2",
    "white": _INK,
}
_PROMPT: Final = "$ "

Line = Sequence[Char]


@dataclass(frozen=True, slots=True)
class Ran:
    """A command as it was typed, the lines that it left, and its exit code."""

    typed: str
    lines: tuple[Line, ...]
    code: int

    @property
    def text(self) -> str:
        """The lines, without colours."""
        shown = ("".join(char.data for char in line).rstrip() for line in self.lines)
        return "\n".join((f"{_PROMPT}{self.typed}", *shown))


def run(
    argv: Sequence[str],
    *,
    typed: str,
    folder: Path,
    environment: Mapping[str, str],
    neutral: Mapping[str, str],
) -> Ran:
    """Run a program in a terminal until it ends.

    ``neutral`` says what is shown instead of what a pattern finds: paths and numbers
    of this machine.
    """
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        argv, cwd=folder, env=environment, stdin=its, stdout=its, stderr=its
    )
    os.close(its)
    said = b"".join(_chunks(ours)).decode()
    os.close(ours)
    for pattern, shown in neutral.items():
        said = re.sub(pattern, shown, said)
    screen = pyte.Screen(COLUMNS, _ROWS)
    pyte.Stream(screen).feed(said)
    lines = [[row[x] for x in range(COLUMNS)] for row in _rows(screen)]
    while lines and not "".join(char.data for char in lines[-1]).strip():
        lines.pop()
    return Ran(typed, tuple(tuple(line) for line in lines), process.wait())


def svg(ran: Sequence[Ran], title: str) -> str:
    """One picture of several commands, one below the other."""
    rows = [row for one in ran for row in (*_typed(one), *one.lines, ())]
    width = COLUMNS * _WIDTH + 2 * _EDGE
    height = (len(rows) - 1) * _HEIGHT + _BAR + 2 * _EDGE
    drawn = "\n".join(filter(None, (_row(n, row) for n, row in enumerate(rows))))
    dots = "".join(
        f'<circle cx="{_EDGE + 6 + 20 * n}" cy="18" r="6" fill="{colour}"/>'
        for n, colour in enumerate(("#e06c75", "#e5c07b", "#98c379"))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height}"'
        f' font-family="{_FONT}" font-size="{_SIZE}" fill="{_INK}">\n'
        f"<title>{escape(title)}</title>\n"
        f'<rect width="{width:g}" height="{height}" rx="8" fill="#1e2127"/>{dots}\n'
        f"{drawn}\n</svg>\n"
    )


def _chunks(terminal: int) -> Iterator[bytes]:
    """Everything that is written; Linux ends a terminal that is closed with EIO."""
    try:
        while chunk := os.read(terminal, 65536):
            yield chunk
    except OSError:
        return


def _rows(screen: pyte.Screen) -> Iterator[Mapping[int, Char]]:
    return (screen.buffer[number] for number in range(_ROWS))


def _typed(one: Ran) -> Iterator[Line]:
    """The line with the prompt, in colours of its own."""
    prompt = [Char(sign, fg="green", bold=True) for sign in _PROMPT]
    yield (*prompt, *(Char(sign, fg="white", bold=True) for sign in one.typed))


def _row(number: int, row: Line) -> str:
    """One line: a run of text for each colour, as wide as its columns."""
    runs, column = [], 0
    for (colour, bold), group in groupby(row, key=lambda c: (c.fg, c.bold)):
        text = "".join(char.data for char in group)
        before = len(text) - len(text.lstrip(" "))
        if words := text.strip(" "):
            x = _EDGE + (column + before) * _WIDTH
            runs.append(_run(words, x, colour=colour, bold=bold))
        column += len(text)
    y = _BAR + _EDGE + number * _HEIGHT + _SIZE
    return f'<text y="{y}">{"".join(runs)}</text>' if runs else ""


def _run(words: str, x: float, *, colour: str, bold: bool) -> str:
    ink = _COLOURS.get(colour.removeprefix("bright"), "")
    style = f' fill="{ink}"' if ink and ink != _INK else ""
    style += ' font-weight="bold"' if bold else ""
    return (
        f'<tspan x="{x:g}" textLength="{len(words) * _WIDTH:g}"'
        f' xml:space="preserve"{style}>{escape(words, quote=False)}</tspan>'
    )
