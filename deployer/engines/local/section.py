"""The section `local` of a stack, and what holds for a stack on this machine."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from deployer.diagnostics import Diagnostic, Severity
from deployer.engines.registry import Abilities
from deployer.stack.addresses import is_loopback
from deployer.stack.fields.marks import Section
from deployer.stack.fields.server import Duration
from deployer.stack.fields.values import Effect, usual_variable

if TYPE_CHECKING:
    from deployer.stack.fields.model import Stack

_IPV4: Final = re.compile(r"\d+\.\d+\.\d+\.\d+")


class Local(Section):
    """Where the server listens on this machine."""

    host: Annotated[str, Field(pattern=r"^[0-9a-zA-Z.:-]+$")] = "127.0.0.1"
    """Address to listen on."""

    port: Annotated[int, Field(ge=1, le=65535)] = 8080
    """Port to listen on."""

    start_timeout: Annotated[Duration, Effect.NOTE] = "5m"
    """Longest time from start to healthy."""

    drain: Annotated[Duration, Effect.NOTE] = "30s"
    """How long the old server may finish what it answers."""


def checks(stack: "Stack") -> Iterator[Diagnostic]:
    """Yield every rule of this engine that a stack breaks."""
    from deployer.stack.checks import without_key  # noqa: PLC0415 - it imports the model

    host = stack.section(Local).host
    for path, secret in stack.references.items():
        if secret.env is None:
            whose = "key" if path in stack.api_keys else "value"
            what = (
                f"`env` is missing: on local the {whose} is taken from the environment"
            )
            yield Diagnostic(path, what, f"add `env: {usual_variable(path)}`")
    if stack.auth is None and not is_loopback(host):
        yield without_key("local.host", f"`{host}` lets other machines use the server")


def narrowed(stack: "Stack", abilities: Abilities) -> Abilities:
    """Return the abilities of this engine, less snapshots that a stack rules out."""
    if not abilities.snapshots:
        return abilities
    if stack.gpu is not None:
        why = "the memory of a GPU is not captured by the local engine"
        return abilities._replace(snapshots=False, why_not=why)
    if not _IPV4.fullmatch(stack.section(Local).host):
        why = "a server is restored to an IPv4 address only"
        hint = "write the address of `local.host` in digits"
        return abilities._replace(snapshots=False, why_not=why, hint=hint)
    return abilities


def doctor(
    stack: "Stack | None", environment: Mapping[str, str], home: Path
) -> Iterator[Diagnostic]:
    """Yield whether this machine takes snapshots; an error where a stack needs them."""
    from deployer.engines.local.snapshot.criu import capability  # noqa: PLC0415 - only here

    wanted = stack.snapshot if stack is not None else None
    enabled = "auto" if wanted is None else wanted.enabled
    if enabled is False or (stack is not None and wanted is None):
        return
    found = capability(environment, home)
    if found.works:
        what = f"CRIU {found.version}: snapshots work here"
        yield Diagnostic("machine", what, severity=Severity.FINE)
        return
    grade = Severity.ERROR if enabled is True else Severity.NOTE
    yield Diagnostic("machine", f"no snapshots: {found.why}", found.hint, grade)


def doctor_server(stack: "Stack", pid: int | None) -> Iterator[Diagnostic]:
    """Yield whether the port of a stack is free, or that of its own server."""
    from deployer.engines.local import ports  # noqa: PLC0415 - as above

    number, host = stack.section(Local).port, stack.section(Local).host
    others = [it for it in ports.listeners(number) if it.pid != pid or pid is None]
    if others:
        what = ports.in_use(number, others)
        hint = f"end it, or set `local.port` ({ports.free_port('127.0.0.1')} is free)"
        yield Diagnostic("port", what, hint)
    elif pid is None and (reason := ports.refused(host, number)):
        yield Diagnostic("port", reason, "set `local.host` or `local.port`")
    else:
        whose = "free" if pid is None else f"the stack's own server's, pid {pid}"
        what = f"port {number} is {whose}"
        yield Diagnostic("port", what, severity=Severity.FINE)
