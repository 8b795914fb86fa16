"""Where an engine finds the things of a stack, and the calls that reach it by its row.

Every plan imports this; the contract of an engine only what asks one.
"""

import io
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from deployer.engines.registry import ENGINES, Abilities, load
from deployer.errors import AuthError, UsageError
from deployer.stack.project_root import allowed_in, how_to_allow, leads_out
from deployer.system.files import read_regular

if TYPE_CHECKING:
    from deployer.diagnostics import Diagnostic
    from deployer.engines.contract import Engine, RemoteStore, Rendering
    from deployer.planning.costs import Costs
    from deployer.planning.plan import Plan
    from deployer.planning.resources import Graph
    from deployer.planning.state import Record
    from deployer.stack.fields.model import Stack

PROXY_HEADERS = ("Modal-Key", "Modal-Secret")
"""Headers for the halves of a token of Modal's proxy (guide/webhook-proxy-auth)."""
_MOST = 1 << 20
"""Bytes of an `.env`."""


class Keys(NamedTuple):
    """Looks keys up: in the environment, else in `.env` beside the stack.

    Only the variable that is asked for is taken from the file, which may have come
    with a pull request: no other variable of it reaches anything.
    """

    environment: Mapping[str, str]
    file: Path | None = None
    """The `.env`; None where there is no stack."""

    def get(self, name: str) -> str | None:
        """The key in a variable; raises UsageError for a file that cannot be read."""
        if name in self.environment or self.file is None:
            return self.environment.get(name)
        if leads_out(self.file, allowed_in(self.environment)):
            raise UsageError(
                f"`{self.file}` is a link out of the project",
                hint=f"run `export {name}=…`; or {how_to_allow(self.file)}",
            )
        try:
            content = read_regular(self.file, _MOST)
        except FileNotFoundError:
            return None
        except OSError as error:
            why = (error.strerror or "unknown trouble").lower()
            raise UsageError(
                f"`{self.file}` cannot be read: {why}", hint=f"or run `export {name}=…`"
            ) from error
        from dotenv import dotenv_values  # noqa: PLC0415 - only where there is one

        # Not interpolated: `${NAME}` would read any variable of the environment.
        text = io.StringIO(content.decode("utf-8", errors="replace"))
        return dotenv_values(stream=text, interpolate=False).get(name)

    def need(self, name: str, what: str) -> str:
        """The secret in a variable; raises AuthError where none is set."""
        if value := self.get(name):
            return value
        raise AuthError(
            f"environment variable `{name}` ({what}) is not set",
            hint=f"run `export {name}=…`, or write `{name}=…` into `.env` beside"
            " the stack",
        )

    def halves(self, name: str) -> dict[str, str]:
        """Return the headers that a proxy reads, from the token in a variable.

        Raises AuthError where it is not set, or is not of the form `ID.SECRET`.
        """
        if not name:
            return {}
        token = self.need(name, "token of the proxy, `ID.SECRET`")
        half, dot, other = token.partition(".")
        if not (dot and half and other and token.isascii() and token.isprintable()):
            raise AuthError(
                f"environment variable `{name}` is no token of the form `ID.SECRET`",
                hint="run `modal workspace proxy-tokens create`, and join its two"
                " halves with a dot",
            )
        return dict(zip(PROXY_HEADERS, (half, other), strict=True))


class Place(NamedTuple):
    """Where an engine keeps and finds things; picked by the app alone."""

    home: Path
    """The artefact store and the run directories."""
    folder: Path
    """Folder of the stack file; relative paths in it start here."""
    environment: Mapping[str, str]
    keys: Keys
    """API keys, by the variables that stacks name."""
    patches: Path
    """Folder of the patches that a build from source may name."""


class Look(StrEnum):
    """A live server, as a plan sees it; an engine observes more."""

    ANSWERS = "answers"
    SILENT = "runs, but did not answer `/health` with 200 within 2 s"
    GONE = "does not run"
    UNSEEN = "was not looked at"


def engine_of(name: str, place: Place) -> "Engine":
    """Return the engine of this name; raises KeyError where there is none."""
    return cast("Engine", load(ENGINES[name].engine)(place))


def render(name: str, graph: "Graph", place: Place) -> "Rendering":
    """Return what the engine of this name makes of a stack."""
    return cast("Rendering", load(ENGINES[name].render)(graph, place))


def costs_of(plan: "Plan") -> "Costs | None":
    """Estimate what a plan costs; None where nothing is billed or all is destroyed."""
    info = ENGINES.get(plan.engine)
    if plan.destroys or info is None or not info.costs:
        return None
    return cast("Costs", load(info.costs)(plan))


def abilities_of(name: str, environment: Mapping[str, str], home: Path) -> Abilities:
    """Return what an engine can do here and now; this machine is asked only once."""
    info = ENGINES[name]
    if not info.capability:
        return info.abilities
    found = load(info.capability)(info.abilities, environment, home)
    return cast("Abilities", found)


def narrowed(stack: "Stack", abilities: Abilities) -> Abilities:
    """Return the abilities of the engine of a stack, less what the stack rules out."""
    part = ENGINES[stack.engine].narrow
    return cast("Abilities", load(part)(stack, abilities)) if part else abilities


def machine_inputs(name: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the files that decide what an engine can do on this machine."""
    part = ENGINES[name].inputs
    return tuple(load(part)(environment)) if part else ()


def images_of(stack: "Stack") -> Mapping[str, str]:
    """Return the images that the containers of a stack are made from, by role."""
    part = ENGINES[stack.engine].images
    return cast("Mapping[str, str]", load(part)(stack)) if part else {}


def look_at(name: str, record: "Record", place: Place) -> Look:
    """Look at a live server where that takes one request at most, on this machine."""
    part = ENGINES[name].look
    return cast("Look", load(part)(record, place)) if part else Look.UNSEEN


def may_live(name: str, stack: str, place: Place) -> tuple[str, ...]:
    """Return beginnings of keys of servers that may live here; this is cheap."""
    part = ENGINES[name].may_live
    return tuple(load(part)(stack, place)) if part else ()


def doctor(
    name: str, stack: "Stack | None", environment: Mapping[str, str], home: Path
) -> "Iterator[Diagnostic]":
    """Yield what this machine lacks for an engine, and for a stack on it."""
    if part := ENGINES[name].doctor:
        yield from load(part)(stack, environment, home)


def doctor_server(stack: "Stack", pid: int | None) -> "Iterator[Diagnostic]":
    """Yield what keeps the server of a stack from listening."""
    if part := ENGINES[stack.engine].doctor_server:
        yield from load(part)(stack, pid)


def remote_store(
    name: str, environment: Mapping[str, str], place: str | None
) -> "RemoteStore | None":
    """Return the artefacts of an engine that keeps them elsewhere; None for ours."""
    part = ENGINES[name].gc
    return cast("RemoteStore", load(part)(environment, place)) if part else None
