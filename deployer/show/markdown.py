"""Plans as one Markdown comment for a pull request, whatever their values hold.

The summary stands first, then a collapsible section a stack: what fails, what is
removed, what changes.  Every word that a file holds stands in a fence, in a code span
or escaped in HTML, so none can end the section it is in, mention somebody or hide
what follows.  What does not fit into a comment is left out, and the comment says so.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape

from deployer.diagnostics import Diagnostic, Place
from deployer.planning.plan import Action, Cause, Change, Plan, Reason
from deployer.show.text import (
    because,
    counts,
    describe,
    drifted,
    gates_line,
    leftovers,
    line_of,
    place_of,
    printable,
    show,
    verb,
)

MARKER = "<!-- deployer:plan -->"
"""Stands in every comment, so that the next run replaces it."""
LONGEST = 64_000
"""UTF-16 units of a comment; GitHub refuses one of more than 65,536."""
LONGEST_SUMMARY = 900_000
"""Units of the summary of a job; GitHub drops one of more than 1 MiB."""
FOOTER = "<sub>deployer · "
"""Begins the line that says where a comment comes from; no line of a plan does."""
_LONGEST_LINE = 400
_FIRST_LINES = 40
"""Lines kept of a section that does not fit whole."""
_TAIL = 1_500
"""Units kept free for what is said of stacks that are left out."""
_SIGNS: Mapping[Action, str] = {
    Action.KEEP: " ",
    Action.CREATE: "+",
    Action.DELETE: "-",
}
"""In column 0, where a `diff` fence is coloured; all others change something: `!`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The result of planning one stack."""

    file: str
    plan: Plan | None = None
    """None where it could not be planned, or need not be."""
    places: Mapping[str, Place] | None = None
    notes: tuple[str, ...] = ()
    """Lines below the plan: what it fits into, what it costs, what to know."""
    command: str = ""
    """The command to type next; empty where nothing is to be done."""
    error: str = ""
    problems: tuple[Diagnostic, ...] = ()
    unchanged: bool = False
    """It was not planned: it resolves to what it did."""

    @property
    def rank(self) -> int:
        """The most urgent first."""
        if self.plan is None:
            return 0
        return 1 if self.plan.destroys else 2


def marker(label: str) -> str:
    """The marker of one of several comments on a pull request."""
    return MARKER if not label else MARKER.replace("plan", f"plan {label}")


def digest_of(comment: str) -> str:
    """The digest of what a comment shows: of all above its footer and its marker.

    Whatever a code host does to the ends of lines does not count.
    """
    shown = f"\n{comment}".partition(f"\n{FOOTER}")[0].partition("\n<!-- deployer")[0]
    lines = [line.rstrip() for line in shown.splitlines()]
    return sha256("\n".join(lines).strip().encode()).hexdigest()


def comment(
    entries: Sequence[Entry],
    *,
    unseen: Sequence[str] = (),
    longest: int = LONGEST,
    label: str = "",
    footer: Sequence[str] = (),
) -> str:
    """The comment for all stacks; ``unseen`` is what could not be looked at.

    ``footer`` is Markdown, and says where it comes from.
    """
    told = sorted((e for e in entries if not _quiet(e)), key=lambda e: e.rank)
    quiet = [entry for entry in entries if _quiet(entry)]
    head = [_summary(entries), ""]
    head += [*(f"- {_code(_line(line))}" for line in unseen), *([""] * bool(unseen))]
    parts = ["\n".join(head)]
    about = f"{FOOTER}{' · '.join(footer)}</sub>" if footer else ""
    room = longest - _TAIL - _units(parts[0]) - _units(about)
    left: list[Entry] = []
    for entry in told:
        section = next((s for s in _sections(entry) if _units(s) <= room), "")
        if section:
            parts.append(section)
            room -= _units(section)
        else:
            left.append(entry)
    if left:
        parts.append(_left_out(left, longest))
    if quiet:
        parts.append(_unchanged(quiet))
    return "\n".join([*parts, *filter(None, (about,)), marker(label)]) + "\n"


def _quiet(entry: Entry) -> bool:
    """Return whether there is nothing to tell but that it is unchanged."""
    planned = entry.plan is not None and entry.plan.is_empty and not entry.notes
    return entry.unchanged or planned


def _summary(entries: Sequence[Entry]) -> str:
    plans = [entry.plan for entry in entries if entry.plan is not None]
    changed = [plan for plan in plans if not plan.is_empty]
    removed = [plan for plan in changed if plan.destroys]
    failed = sum(e.plan is None and not e.unchanged for e in entries)
    parts = [f"{len(changed)} of {_stacks(len(entries))} would change"]
    if not changed and not failed:
        parts = [f"no changes in {_stacks(len(entries))}"]
    if removed:
        parts.append(f"{len(removed)} would be destroyed")
    if failed:
        parts.append(f"{failed} cannot be planned")
    return f"#### deployer plan: {', '.join(parts)}"


def _stacks(number: int) -> str:
    return f"{number} stack{'' if number == 1 else 's'}"


def _sections(entry: Entry) -> Iterator[str]:
    """The section of a stack, whole and then shortened."""
    lines = [_line(line) for line in _told(entry)]
    yield _section(entry, lines)
    if len(lines) > _FIRST_LINES:
        more = len(lines) - _FIRST_LINES
        cut = f"  … {more} more lines: `deployer plan` shows them"
        yield _section(entry, [*lines[:_FIRST_LINES], cut])


def _section(entry: Entry, lines: Sequence[str]) -> str:
    fence = "`" * max(3, *(_longest_run(line) + 1 for line in (*lines, "")))
    is_open = " open" if entry.rank < 2 else ""
    body = [
        f"<details{is_open}><summary>{_headline(entry)}</summary>",
        "",
        f"{fence}diff",
        *lines,
        fence,
        "",
    ]
    if entry.command:
        body += [f"Next: {_code(_line(entry.command))}", ""]
    return "\n".join([*body, "</details>", ""])


def _headline(entry: Entry) -> str:
    """One line of HTML: Markdown is not read in it."""
    plan = entry.plan
    if plan is None:
        return f"<code>{_html(entry.file)}</code>: cannot be planned"
    name = f"<code>{_html(plan.stack)}</code> on <code>{_html(plan.engine)}</code>"
    if plan.is_empty:
        return f"{name}: no changes, with a note"
    fate = "<b>destroy</b>" if plan.destroys else _html(counts(plan)[6:-1])
    return f"{name}: {fate}"


def _told(entry: Entry) -> Iterator[str]:
    """The lines of the fence."""
    plan = entry.plan
    if plan is None:
        yield from _failure(entry)
        return
    yield from (f"! {line}" for line in leftovers(plan))
    yield from (f"! drift    {line}" for line in drifted(plan))
    for change in plan.changes:
        sign = _SIGNS.get(change.action, "!")
        words = (describe(change), verb(change))
        yield f"{sign} {change.role:<9}{'   '.join(filter(None, words))}"
        yield from _reasons(change, entry.places or {})
    if gates := gates_line(plan):
        yield f"  gates    {gates}"
    yield from (f"  {note}" for note in entry.notes)


def _failure(entry: Entry) -> Iterator[str]:
    if not entry.problems:
        yield f"- {entry.error}"
    for problem in entry.problems:
        yield f"- {problem.place}: {problem.what}"
        if problem.hint:
            yield f"      hint: {problem.hint}"


def _reasons(change: Change, places: Mapping[str, Place]) -> Iterator[str]:
    for reason in change.reasons:
        if reason.cause in (Cause.NEW, Cause.UNDECLARED):
            continue
        place = place_of(reason, places)
        where = f"   {line_of(place)}" if place else ""
        if reason.cause in (Cause.FIELD, Cause.LOCK):
            yield from _field(reason, where)
        else:
            yield f"!     {because(reason)}{where}"


def _field(reason: Reason, where: str) -> Iterator[str]:
    """The old value above the new one, as a reader of diffs expects."""
    path = printable(reason.path)
    old = f"-     {path}: {show(reason.before)}"
    new = f"+     {path}: {show(reason.after)}"
    if reason.before is not None:
        yield old if reason.after is not None else f"{old}{where}"
    if reason.after is not None:
        yield f"{new}{where}"


def _left_out(entries: Sequence[Entry], longest: int) -> str:
    names = _few([entry.file for entry in entries])
    return (
        f"**{_stacks(len(entries))} left out**, as there is room for {longest:,}"
        f" characters: `deployer plan` shows them. {names}\n"
    )


def _unchanged(entries: Sequence[Entry]) -> str:
    names = _few([entry.file for entry in entries])
    head = f"<details><summary>{_stacks(len(entries))} unchanged</summary>"
    return f"{head}\n\n{names}\n\n</details>\n"


def _few(names: Sequence[str], *, most: int = 10) -> str:
    """Names as code, and how many more there are."""
    told = ", ".join(_code(_line(name, longest=60)) for name in names[:most])
    return told if len(names) <= most else f"{told} and {len(names) - most} more"


def _line(text: str, *, longest: int = _LONGEST_LINE) -> str:
    """One printable line of bounded length, which says how much was cut."""
    clean = printable(text)
    if len(clean) <= longest:
        return clean
    return f"{clean[:longest]}… (+{len(clean) - longest} characters)"


def _html(text: str) -> str:
    return escape(_line(text, longest=120))


def _units(text: str) -> int:
    """How GitHub counts: characters beyond the basic plane are two."""
    return len(text) + sum(character > "\uffff" for character in text)


def _word(text: str) -> str:
    """A name as it is; anything that could be more than a name as code."""
    return text if text.replace("_", "").isalnum() else _code(text)


def _code(text: str) -> str:
    """Text between more backticks than it holds: nothing in it can be markup."""
    fence = "`" * (_longest_run(text) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _longest_run(text: str) -> int:
    """The longest run of backticks in a text."""
    return max(map(len, _runs_of_backticks(text)), default=0)


def _runs_of_backticks(text: str) -> Iterable[str]:
    run = ""
    for character in text:
        if character == "`":
            run += character
        elif run:
            yield run
            run = ""
    if run:
        yield run
