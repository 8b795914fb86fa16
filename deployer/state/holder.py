"""Who holds the lock of a stack, and how that is written down."""

import os
import pwd
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from deployer.artefacts.json_text import members_of, parse, text_of

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Holder:
    """Who works on a stack."""

    id: str
    """Random; what `unlock` asks for."""
    host: str
    pid: int
    user: str
    operation: str
    since: str
    """UTC, ISO 8601, whole seconds."""

    def __str__(self) -> str:
        since = self.since.replace("T", " ").replace("+00:00", " UTC")
        who = f"{self.user}@{self.host} (pid {self.pid})"
        return f"{who} since {since} for {self.operation}"


def this_process(operation: str, *, now: Callable[[], datetime]) -> Holder:
    """The running process as a holder, with an ID of its own."""
    return Holder(
        id=os.urandom(4).hex(),
        host=this_host(),
        pid=os.getpid(),
        user=_user(),
        operation=operation,
        since=now().astimezone(UTC).isoformat(timespec="seconds"),
    )


def to_json(holder: Holder) -> str:
    """The one text of a holder."""
    return text_of(_VERSION, members_of(holder))


def from_json(content: bytes) -> Holder:
    """The holder that a text names; raises FormError or NewerError."""
    found = parse(content).versioned(_VERSION).of_class(Holder)
    return Holder(
        id=found["id"].text(),
        host=found["host"].text(),
        pid=found["pid"].count(),
        user=found["user"].text(),
        operation=found["operation"].text(),
        since=found["since"].text(),
    )


def this_host() -> str:
    """The name of this machine."""
    return os.uname().nodename


def _user() -> str:
    """The name of the user; the number where a container knows no name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
