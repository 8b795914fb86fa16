"""The known traps of llama.cpp and of what it runs on, and which a stack is in."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from deployer.core.model import Stack
from deployer.core.notices import Severity
from deployer.core.spelling import did_you_mean, shown
from deployer.llama.trap import NEWEST, Case, Trap
from deployer.llama.traps_of_builds import BUILDS
from deployer.llama.traps_of_memory import MEMORY
from deployer.llama.traps_of_thinking import THINKING

THEMES: Final[Mapping[str, tuple[Trap, ...]]] = {
    "Builds and platforms": BUILDS,
    "Memory, pictures and snapshots": MEMORY,
    "Thinking and tools": THINKING,
}
TRAPS: Final[Mapping[str, Trap]] = {
    trap.id: trap for group in THEMES.values() for trap in group
}
"""Every trap, by its name."""


@dataclass(frozen=True, slots=True)
class Caught:
    """A trap that a stack is in, or a word about one that it ignores."""

    id: str
    severity: Severity
    path: str
    what: str
    hint: str = ""


def traps_of(stack: Stack, build: int | None) -> tuple[Caught, ...]:
    """What a stack runs into on this build, and is not told to ignore.

    Where the build is not known, only what all builds have is certain.
    """
    caught = _caught(stack, build)
    ignored = {one.trap for one in stack.ignore or ()}
    return (*(c for c in caught if c.id not in ignored), *_ignores(stack, caught))


def _caught(stack: Stack, build: int | None) -> tuple[Caught, ...]:
    case = Case(stack, build)
    return tuple(
        Caught(trap.id, trap.severity, path, trap.what, _hint(trap))
        for trap in TRAPS.values()
        if _has(trap, build) and (path := trap.where(case))
    )


def _hint(trap: Trap) -> str:
    return f"write {trap.write}" if trap.write.startswith("`") else trap.write


def _has(trap: Trap, build: int | None) -> bool:
    if build is None:
        return (trap.since, trap.until) == (0, NEWEST)
    return trap.since <= build <= trap.until


def _ignores(stack: Stack, caught: tuple[Caught, ...]) -> Iterator[Caught]:
    """Names that are no trap, and those that nothing came of."""
    here = {one.id for one in caught}
    for index, ignored in enumerate(stack.ignore or ()):
        path = f"ignore.{index}.trap"
        name = ignored.trap
        if name not in TRAPS:
            what = f"there is no trap `{shown(name)}`"
            hint = did_you_mean(name, TRAPS) or "`deployer traps` lists them"
            yield Caught(name, Severity.ERROR, path, what, hint)
        elif name not in here:
            what = f"`{name}` is ignored, and the stack is not in this trap"
            yield Caught(name, Severity.NOTE, path, what, "leave it out of `ignore`")


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
    for theme, traps in THEMES.items():
        yield from ("", f"## {theme}")
        for trap in traps:
            yield from _entry(trap)


def _entry(trap: Trap) -> Iterator[str]:
    yield from ("", f"### {trap.id}", "")
    yield f"**{trap.severity.value.capitalize()}** · {trap.builds}"
    yield ""
    yield f"- When: {trap.when}."
    yield f"- What happens: {trap.what}."
    yield f"- Write: {trap.write}."
    yield f"- Reference: <{trap.reference}>"
