"""The server that gates look at, and what is stated about it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from deployer.errors import UsageError
from deployer.stack.fields.values import JsonValue


@dataclass(frozen=True, slots=True)
class Loading:
    """What a server answered on /health before its model was loaded."""

    status: int
    body: str


@dataclass(frozen=True, slots=True)
class Process:
    """The server as its engine sees it from outside; only what is known is set."""

    pid: int | None = None
    """Its number on this machine."""
    memory: int | None = None
    """Main memory that it holds, in bytes."""
    log: str = ""
    """What it logged while it started."""
    loading: Loading | None = None
    """What it answered first while it loaded, where that was seen."""


@dataclass(frozen=True, slots=True)
class Comeback:
    """How a server came back, and where it answers now."""

    really: bool
    """It was restored; false for a cold start."""
    seconds: float
    """Until it was healthy."""
    detail: str
    """One sentence: what was restored, or why it was not."""
    url: str
    source_address: str | None = None
    captured: bool = False
    """It was a cold start that captured, as there was no snapshot to restore."""
    failed: int = 0
    """Restores that failed before it came up."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server answers, the key it asks for, and what it should be.

    Raises UsageError for a URL or a key that no request can carry.
    """

    url: str
    """Base address, as the user writes it; a trailing `/v1` is left out."""
    api_key: str | None = field(default=None, repr=False)
    api_key_name: str = ""
    """Environment variable of the key, for messages."""
    source_address: str | None = None
    """Local address that requests come from."""
    expects: Mapping[str, JsonValue] = field(default_factory=dict)
    """Set fields of the stack by dotted path (`server.ctx_size`)."""
    build: int | None = None
    """Upstream build number of the stack's tag, where it is known."""
    process: Process = Process()
    """The server's process, where an engine tells of it."""
    live: "Target | None" = None
    """The live release, while this is the candidate for its place."""
    folder: Path | None = None
    """Folder of the stack; files it names are relative to it."""
    bring_back: Callable[[float], Comeback] | None = None
    """Puts the server away, and restores it after so many seconds; it blocks."""
    why_no_snapshot: str = ""
    """Why that cannot be, where it is known."""

    def __post_init__(self) -> None:
        _check_url(self.url)
        _check_key(self.api_key, self.api_key_name)

    @property
    def base(self) -> str:
        """The address that paths such as `/v1/models` are put behind."""
        return self.url.rstrip("/").removesuffix("/v1").rstrip("/")

    @property
    def host(self) -> str:
        """The host name or address in the URL."""
        return urlsplit(self.url).hostname or ""

    @property
    def slots(self) -> int | None:
        """How many requests it is to work on at once, where that is stated."""
        return self.whole("server.parallel")

    def whole(self, path: str) -> int | None:
        """The whole number stated at a path."""
        stated = self.expects.get(path)
        if isinstance(stated, int) and not isinstance(stated, bool):
            return stated
        return None

    def text(self, path: str) -> str | None:
        """The text stated at a path."""
        stated = self.expects.get(path)
        return stated if isinstance(stated, str) else None

    def truth(self, path: str) -> bool | None:
        """The boolean stated at a path."""
        stated = self.expects.get(path)
        return stated if isinstance(stated, bool) else None

    def states_any(self, prefix: str) -> bool:
        """Return whether anything below a dotted prefix (`model.`) is stated."""
        return any(path.startswith(prefix) for path in self.expects)


def _check_url(url: str) -> None:
    hint = "write it as `http://127.0.0.1:8080`"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
        usable = usable and parts.port != 0
    except ValueError as error:
        raise UsageError(f"`{url}` is not a URL: {error}", hint) from error
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "the URL holds a user name or a password",
            "leave it out, and give the key in an environment variable",
        )
    if not usable or not url.isprintable() or " " in url:
        raise UsageError(f"`{url}` is not an http or https URL", hint)
    if parts.query or parts.fragment:
        raise UsageError(f"`{url}` has a query or a fragment", hint)


def _check_key(key: str | None, name: str) -> None:
    where = f"the key in `{name}`" if name else "the API key"
    hint = "look for a line break or quotes that were copied along"
    if key is not None and not key:
        raise UsageError(f"{where} is empty", "set it, or leave the key out")
    if key is not None and not (key.isascii() and key.isprintable()):
        raise UsageError(f"{where} holds characters a header cannot carry", hint)
    if key is not None and key != key.strip():
        raise UsageError(f"{where} starts or ends with a space", hint)
