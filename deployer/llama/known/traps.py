"""The known issues of llama.cpp and of what it runs on, and which a stack is in."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from deployer.diagnostics import Diagnostic, Severity
from deployer.llama.known.conditions import BLAMES, Case
from deployer.llama.known.tables import rows
from deployer.spelling import did_you_mean, shown
from deployer.stack.fields.model import Stack

NEWEST: Final = 10**9


@dataclass(frozen=True, slots=True)
class Trap:
    """A range of builds and a condition under which something bites."""

    id: str
    theme: str
    severity: Severity
    when: str
    """The condition, in words."""
    what: str
    """What happens."""
    write: str
    """What to write instead."""
    reference: str
    since: int = 0
    until: int = NEWEST
    """Last build that is known to have it."""

    @property
    def builds(self) -> str:
        """The range, in words."""
        match self.since, self.until:
            case 0, until if until == NEWEST:
                return "all builds"
            case 0, until:
                return f"up to b{until}"
            case since, until if until == NEWEST:
                return f"b{since} and later"
            case since, until if since == until:
                return f"b{since}"
            case since, until:
                return f"b{since} to b{until}"


@cache
def traps() -> Mapping[str, Trap]:
    """Return every trap by its id, in the order of the table."""
    return {t.id: t for t in rows("traps.toml", "trap", Trap, severity=Severity)}


def themes() -> Mapping[str, tuple[Trap, ...]]:
    """Return the traps by theme."""
    names = dict.fromkeys(trap.theme for trap in traps().values())
    return {n: tuple(t for t in traps().values() if t.theme == n) for n in names}


def traps_of(stack: Stack, build: int | None) -> tuple[Diagnostic, ...]:
    """Return what a stack runs into on this build, and is not told to ignore.

    Where the build is not known, only what all builds have is certain.
    """
    caught = _caught(stack, build)
    ignored = {one.trap for one in stack.ignore or ()}
    return (*(c for c in caught if c.code not in ignored), *_ignores(stack, caught))


def _caught(stack: Stack, build: int | None) -> tuple[Diagnostic, ...]:
    case = Case(stack, build)
    blamed = {name: blame(case) for name, blame in BLAMES.items()}
    if not any(blamed.values()):  # most stacks: the table need not be read
        return ()
    return tuple(
        Diagnostic(path, trap.what, _hint(trap), trap.severity, trap.id)
        for trap in traps().values()
        if (path := blamed[trap.id]) and _has(trap, build)
    )


def _hint(trap: Trap) -> str:
    return f"write {trap.write}" if trap.write.startswith("`") else trap.write


def _has(trap: Trap, build: int | None) -> bool:
    if build is None:
        return (trap.since, trap.until) == (0, NEWEST)
    return trap.since <= build <= trap.until


def _ignores(stack: Stack, caught: tuple[Diagnostic, ...]) -> Iterator[Diagnostic]:
    """Names that are no trap, and those that nothing came of."""
    here = {one.code for one in caught}
    for index, ignored in enumerate(stack.ignore or ()):
        path = f"ignore.{index}.trap"
        name = ignored.trap
        if name not in traps():
            what = f"there is no trap `{shown(name)}`"
            hint = did_you_mean(name, traps()) or "`deployer traps` lists them"
            yield Diagnostic(path, what, hint, Severity.ERROR, name)
        elif name not in here:
            what = f"`{name}` is ignored, and the stack is not in this trap"
            hint = "leave it out of `ignore`"
            yield Diagnostic(path, what, hint, Severity.NOTE, name)


def markdown() -> str:
    """Every trap as a page of the docs."""
    return "\n".join(_page()) + "\n"


def _page() -> Iterator[str]:
    yield "# Known traps"
    yield ""
    yield "<!-- Written by `deployer traps --markdown > docs/traps.md`. -->"
    yield ""
    yield "What is known to bite, on which builds, and what to write instead."
    yield "`deployer validate` and `deployer plan` show the traps that a stack is in."
    yield "Errors are refused, warnings and notes are shown."
    yield "`deployer traps ID` explains one."
    yield ""
    yield "A trap can be ignored, with a reason:"
    yield ""
    yield "```yaml"
    yield "ignore:"
    yield "  - trap: context-checkpoints"
    yield "    reason: the host has 256 GiB"
    yield "```"
    for theme, group in themes().items():
        yield from ("", f"## {theme}")
        for trap in group:
            yield from _entry(trap)


def _entry(trap: Trap) -> Iterator[str]:
    yield from ("", f"### {trap.id}", "")
    yield f"**{trap.severity.value.capitalize()}** · {trap.builds}"
    yield ""
    yield f"- When: {trap.when}."
    yield f"- What happens: {trap.what}."
    yield f"- Write: {trap.write}."
    yield f"- Reference: <{trap.reference}>"
