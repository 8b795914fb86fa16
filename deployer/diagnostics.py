"""What is wrong with a stack, as values that can be listed, sorted and shown."""

from collections.abc import Iterable
from dataclasses import dataclass

from deployer.spelling import harmless


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A position in a file; lines and columns count from 1."""

    file: str
    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing to fix: where, what, and if it is known, how."""

    place: Place
    path: str
    """Dotted path in the stack; empty for a problem of the file itself."""
    what: str
    hint: str = ""


def problems_text(problems: Iterable[Problem]) -> str:
    """Every problem with its place, and a hint below where there is one."""
    shown = []
    for problem in problems:
        shown.append(f"{problem.place}: error: {problem.what}\n")
        if problem.hint:
            shown.append(f"  hint: {problem.hint}\n")
    return harmless("".join(shown))
