"""The reference of stack files: every field of the model, as its marks say."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Final

from deployer.stack.fields.model import Weights
from deployer.stack.fields.reference import Entry, entries
from scripts.docs.gate_pages import COMMON
from scripts.docs.parts import field

HEAD: Final = """\
# Stack reference

<!-- Written by `python -m scripts.docs.write`. -->

Every field of a stack file, in the order of the vocabulary.
It is made from the declarations that plan, schema and argument list are made from, so it cannot say anything else.
`deployer schema` prints the same as a JSON schema; the first line of a stack gives it to your editor.

- **Unset** is the value of a field that is left out.
  deployer repeats no default of llama-server: an unset field writes no option, and the build decides.
- **A change** is what it costs, from `note` to `build`; [what a change costs](../plans.md) explains the words.
- **Becomes** is the option of llama-server that is written, with the builds that spell it so.
- A field without an engine works on both.
- A duration is a number of seconds or a string such as `90s`; a size is a number of bytes or a string such as `24GiB`.
"""
_SECOND: Final = {"server": "jinja"}
"""Sections with too many fields for one page, and the field that opens a second one."""
_SHARED: Final = 4
"""Fields from which on a page states once what most of them have in common."""


@dataclass(frozen=True, slots=True)
class Page:
    """A section, or the half of a large one."""

    name: str
    title: str
    section: Entry
    fields: tuple[Entry, ...]


def pages() -> Mapping[str, Callable[[], str]]:
    """Return the first page, and those of the sections."""
    found = {f"reference/stack/{it.name}.md": partial(_page, it) for it in _pages()}
    return {"reference/stack.md": _first, **found}


def nav() -> Iterator[str]:
    """Yield the lines of the nav."""
    for page in _pages():
        yield f'          - "{page.title}": reference/stack/{page.name}.md'


@cache
def _pages() -> tuple[Page, ...]:
    return tuple(page for section in _sections() for page in _halves(section))


def _halves(section: Entry) -> Iterator[Page]:
    found = tuple(_own(section))
    names = [entry.name for entry in found]
    second = _SECOND.get(section.path)
    at = names.index(second) if second else len(found)
    halves = (found[:at], found[at:]) if second else (found,)
    for half in halves:
        inner = (it.path.removeprefix(f"{section.path}.") for it in half)
        own = [it for it in inner if "." not in it]
        more = f": {own[0]} to {own[-1]}" if second else ""
        name = section.path if half is halves[0] else f"{section.path}.{second}"
        yield Page(name, f"{section.path}{more}", section, half)


def _sections() -> list[Entry]:
    """Return the fields of the stack that hold others, and large ones within them."""
    return [
        entry
        for entry in entries()
        if entry.below is not None
        and ("." not in entry.path or len(_within(entry)) >= 2 * _SHARED)
        and not entry.path.startswith("gates.")
    ]


def _within(entry: Entry) -> list[Entry]:
    """Return the fields below one; where weights come from is listed of `model` alone."""
    return [
        inner
        for inner in entries()
        if inner.path.startswith(f"{entry.path}{entry.listed}.")
        and not (inner.name in Weights.model_fields and inner.path.count(".") > 1)
    ]


def _first() -> str:
    lines = [HEAD.rstrip("\n"), "", "## Sections", "", "| Section | Is |", "|---|---|"]
    lines += (
        f"| [{page.title}](stack/{page.name}.md) | {page.section.said} |"
        for page in _pages()
    )
    lines += ["", "## The stack itself"]
    for entry in entries():
        if "." not in entry.path and entry.below is None:
            lines += ("", *field(entry, "###"))
    return "\n".join(lines) + "\n"


def _page(page: Page) -> str:
    """Return a page of a section."""
    section = page.section
    lines = [
        f"# {page.title}",
        "",
        "<!-- Written by `python -m scripts.docs.write`. -->",
    ]
    lines += ["", _about(section)]
    if section.listed:
        lines += ["", " · ".join(section.facts())]
    inner = _gates() if section.path == "gates" else _plainly(page.fields)
    return "\n".join((*lines, *inner)) + "\n"


def _own(section: Entry) -> Iterator[Entry]:
    """Yield the fields of a section, but for those that have a page of their own."""
    apart = [s.path for s in _sections() if s.path.startswith(f"{section.path}.")]
    for entry in _within(section):
        if not any(entry.path.startswith(f"{it}.") for it in apart):
            yield entry


def _plainly(found: Sequence[Entry]) -> Iterator[str]:
    """Yield every field, and first what most have in common."""
    common = _common(found)
    if common:
        yield from ("", f"Unless a field says otherwise: {' · '.join(common)}.")
    apart = {section.path for section in _sections()}
    for entry in found:
        yield from ("", *field(entry, "##", common))
        if entry.path in apart:
            yield from ("", f"Its fields: [{entry.path}]({entry.path}.md).")
        elif entry.below is not None and issubclass(entry.below, Weights):
            names = ", ".join(f"`{name}`" for name in Weights.model_fields)
            yield from (
                "",
                f"Where it comes from: {names} in it, as in `model` itself.",
            )


def _common(found: Sequence[Entry]) -> list[str]:
    """Return what most fields of a page say of being unset and of a change."""
    counted = Counter(fact for entry in found for fact in entry.facts())
    return [
        fact
        for fact, times in counted.items()
        if fact.startswith(("Unset", "A change"))
        and times > max(_SHARED, len(found) // 2)
    ]


def _gates() -> Iterator[str]:
    """What all gates understand; the options of each stand on its page."""
    yield from (
        "",
        "A gate that is listed runs; `chat: {}` runs it with what it expects by itself.",
        "A gate that is left out does not run.",
        "What a gate proves, and the options that it alone has, stand on [its page](../../gates/README.md).",
    )
    found = [e for e in entries() if e.path.startswith("gates.")]
    options = {entry.name: entry for entry in reversed(found)}
    for name in COMMON:
        _, *rest = field(options[name], "##")
        yield from ("", f"## gates.GATE.{name}", *rest)
    for entry in found:
        if entry.path.count(".") == 1 and entry.below is None:
            yield from ("", *field(entry, "##"))


def _about(entry: Entry) -> str:
    """What a section is, and what holds without it."""
    if entry.listed:
        return entry.said
    only = f" Only for the engine `{entry.marks.only}`." if entry.marks.only else ""
    if entry.info.is_required():
        return f"{entry.said} Required.{only}"
    if entry.info.default_factory is not None:
        return f"{entry.said} Unset: what its fields say by themselves.{only}"
    return f"{entry.said} Unset: {entry.unset}.{only}"
