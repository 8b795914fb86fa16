"""A broken rule, before anybody knows in which line of which file."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken rule: the path it is told at, what is wrong, what to do."""

    path: str
    what: str
    hint: str = ""
    lacks: str = ""
    """Path of another section whose absence breaks the rule."""
