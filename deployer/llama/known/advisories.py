"""Published vulnerabilities of llama.cpp, and which of them a stack is exposed to."""

import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

from deployer.artefacts.sources.transfer import download
from deployer.diagnostics import Diagnostic, Severity
from deployer.errors import UsageError
from deployer.llama.catalogue import Catalogue
from deployer.llama.known.tables import rows, rows_of
from deployer.llama.known.traps import Case
from deployer.planning.progress import unwatched
from deployer.stack.fields.model import Stack
from deployer.system.files import read_regular


@dataclass(frozen=True, slots=True)
class Advisory:
    """One record: a range of builds, and the condition under which it can be used."""

    id: str
    severity: Literal["low", "medium", "high", "critical"]
    """As the record rates it."""
    published: str
    exposed: str
    """Name of the condition."""
    when: str
    """The condition, in words."""
    what: str
    reference: str
    since: int = 0
    until: int = 0
    """Last build that the record names; 0: every one before `fixed`."""
    fixed: int = 0
    """First good build; 0: no record names one."""

    def affects(self, build: int) -> bool | None:
        """Return whether a build is affected; None where no record decides it."""
        if build < self.since:
            return False
        if self.fixed:
            return build < self.fixed
        return True if build <= self.until else None


def _option(name: str, field: str = "") -> Callable[[Case], str]:
    """The condition that an option is set, as a field or under `server.flags`."""

    def blamed(case: Case) -> str:
        if field and bool(getattr(case.server, field, None)):
            return f"server.{field}"
        value = (case.server.flags or {}).get(name)
        return "" if value in (None, False, "", -1) else f"server.flags.{name}"

    return blamed


def _rpc(case: Case) -> str:
    """Where the backend for other machines is compiled in, or used."""
    on = ("GGML_RPC=ON", "GGML_RPC=1", "GGML_RPC=TRUE")
    stated = {*(case.stack.llama_cpp.cmake or ())} & {*on}
    return "llama_cpp.cmake" if stated else _option("rpc")(case)


EXPOSED: Final[Mapping[str, Callable[[Case], str]]] = {
    "always": lambda _: "llama_cpp.tag",
    "rpc": _rpc,
    "sleep": _option("sleep-idle-seconds"),
    "slot-files": _option("slot-save-path"),
    "context-shift": _option("context-shift", "context_shift"),
}
"""The field that exposes a stack, by the name of a condition; empty: not exposed."""


@cache
def advisories() -> tuple[Advisory, ...]:
    """Return every advisory that is shipped."""
    return rows("advisories.toml", "advisory", Advisory)


def advisories_from(text: str, named: str) -> tuple[Advisory, ...]:
    """Return the advisories of a table of the same form; raises UsageError."""
    try:
        found = rows_of(tomllib.loads(text), "advisory", Advisory)
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise UsageError(
            f"`{named}` is not a table of advisories: {error}",
            hint=f"its form is that of `{Path(__file__).with_suffix('.toml').name}`",
        ) from error
    for advisory in found:
        if advisory.exposed not in EXPOSED:
            known = ", ".join(f"`{name}`" for name in EXPOSED)
            raise UsageError(
                f"`{named}`: {advisory.id} has the condition `{advisory.exposed}`,"
                f" expected one of {known}",
                hint="a newer deployer may know it",
            )
    return found


def advisories_of(named: str) -> tuple[Advisory, ...]:
    """Return the advisories of a file or an https address; none for an empty name.

    Raises UsageError for one that is not such a table, or cannot be read, and
    SourceError for an address that does not answer.
    """
    if not named:
        return ()
    if named.startswith("https://"):
        with tempfile.TemporaryDirectory(prefix="deployer-") as folder:
            arrived = Path(folder) / "advisories.toml"
            download(named, arrived, sha256=None, size=None, progress=unwatched)
            return advisories_from(arrived.read_text("utf-8"), named)
    try:
        return advisories_from(read_regular(Path(named)).decode("utf-8"), named)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot read `{named}`, which DEPLOYER_ADVISORIES names: {error}",
            hint="name a TOML file, or an address that begins with https://",
        ) from error


def exposures_of(
    stack: Stack, on: Catalogue, further: tuple[Advisory, ...] = ()
) -> Iterator[Diagnostic]:
    """Yield what a stack is exposed to on this build, and is not told to ignore."""
    case, build = Case(stack, on), on.build
    ignored = {one.trap for one in stack.ignore or ()}
    known = {it.id: it for it in (*advisories(), *further)}
    for advisory in known.values():
        path = EXPOSED[advisory.exposed](case)
        if not path or advisory.id in ignored:
            continue
        affected = None if build is None else advisory.affects(build)
        if affected:
            yield _finding(advisory, path, _grade(stack))
        elif affected is None and (build is not None or advisory.exposed != "always"):
            yield _finding(advisory, path, Severity.NOTE, f"{_doubt(advisory)}: ")
    if build is None:
        what = "advisories are checked once the number of the build is known"
        yield Diagnostic("llama_cpp.tag", what, "", Severity.NOTE)


def _grade(stack: Stack) -> Severity:
    strict = stack.policy is not None and stack.policy.advisories == "error"
    return Severity.ERROR if strict else Severity.WARNING


def _doubt(advisory: Advisory) -> str:
    return (
        f"no record names a fixed build after b{advisory.until}"
        if (advisory.until)
        else "the number of the build is not known"
    )


def _finding(
    advisory: Advisory, path: str, severity: Severity, doubt: str = ""
) -> Diagnostic:
    what = f"{doubt}{advisory.what} ({advisory.severity}, {advisory.when})"
    fixed = f"use `llama_cpp.tag: b{advisory.fixed}` or newer"
    without = f"leave out {advisory.when}" if advisory.exposed != "always" else ""
    steps = [fixed if advisory.fixed else "", without, advisory.reference]
    hint = "; ".join(filter(None, steps))
    return Diagnostic(path, what, hint, severity, advisory.id)
