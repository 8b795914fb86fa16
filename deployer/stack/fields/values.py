"""The values that flow through the core: plain JSON.

No import here is slow: a plan that changes nothing must not pay for the model.

A lock file, a saved plan or a state may come with a stranger's checkout, and what it
names becomes part of a path, of an address or of a command line.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final, TypeAlias

JsonValue: TypeAlias = (
    "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
)
"""Anything JSON can hold."""

Flat: TypeAlias = Mapping[str, JsonValue]
"""Values by dotted path."""


class Unit(StrEnum):
    """The unit of a field."""

    DURATION = "duration"
    SIZE = "size"


_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "B": 1,
    **{f"{p}B": 1000**n for n, p in enumerate("KMGT", start=1)},
    **{f"{p}iB": 1024**n for n, p in enumerate("KMGT", start=1)},
}

DURATION_PATTERN = r"^([0-9]{1,9}(\.[0-9]{1,9})?(ms|s|m|h|d))+$"
SIZE_PATTERN = r"^[0-9]{1,15}(\.[0-9]{1,9})?(B|[KMGT]i?B)$"

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(B|[KMGT]i?B)")


def seconds(value: JsonValue) -> float:
    """The seconds of a duration: a number, or a string such as ``90s`` and ``1h30m``.

    Raises ValueError with the expected form.
    """
    match value:
        case bool():
            pass
        case int() | float() if value >= 0:
            return float(value)
        case str() if re.fullmatch(DURATION_PATTERN, value):
            return sum(float(n) * _SECONDS[unit] for n, unit in _PART.findall(value))
    raise ValueError("expected a duration such as `90s`, `5m` or `1h30m`")


def size_in_bytes(value: JsonValue) -> int:
    """The bytes of a size: an integer, or a string such as ``24GiB`` and ``500MB``.

    Raises ValueError with the expected form.
    """
    match value:
        case bool():
            pass
        case int() if value >= 0:
            return value
        case str() if found := _SIZE.fullmatch(value):
            return int(float(found[1]) * _BYTES[found[2]])
    raise ValueError("expected a size such as `24GiB`, `500MB` or a number of bytes")


def canonical(unit: Unit | None, value: JsonValue) -> JsonValue:
    """Return what to compare and hash: equal quantities are equal, however written."""
    match unit, value:
        case None, _:
            return value
        case Unit.DURATION, int() | float() | str():
            return seconds(value)
        case Unit.SIZE, int() | str():
            return size_in_bytes(value)
        case _:
            return value


def show_bytes(count: float) -> str:
    """A number of bytes for people, in decimal units as disks and hubs print them."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def show_seconds(count: float) -> str:
    """A number of seconds for people: ``0.4 s``, ``12 s``, ``3 min 5 s``."""
    if count < 10:
        return f"{count:.1f} s"
    minutes, rest = divmod(round(count), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def http_address(host: str, port: object) -> str:
    """The URL of a server that listens on a host, also on an IPv6 address."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


NO_GATES: Final = frozenset({"auto", "without"})
"""Fields of the section `gates` that are no gate."""


class Effect(IntEnum):
    """The cost of a change, weakest first."""

    NOTE = 0
    """Recorded, nothing is touched."""
    GATE = 1
    """The live release is validated again."""
    UPDATE = 2
    """Changed in place, no restart."""
    REDEPLOY = 3
    """The server is restarted, from the same snapshot where the engine can."""
    SNAPSHOT = 4
    """A new warm-up and capture; without snapshots a restart."""
    FETCH = 5
    """Other weights."""
    BUILD = 6
    """Another llama-server binary; also what a field without a mark costs."""


class Mark(StrEnum):
    """A property of a field that needs no value."""

    LOCKED = "locked"
    """The facts it resolves to stand in the key, not the field itself."""
    EACH = "each"
    """Each item of the list is a section with fields of its own, by its number."""


class Memory(StrEnum):
    """How the memory of a server depends on an option."""

    COMPUTED = "computed"
    """By a formula of `deployer fit`, which reads the field under its own name."""
    UNKNOWN = "unknown"
    """In a way that is not computed: it may fit where the figures say no."""


@dataclass(frozen=True, slots=True)
class Flag:
    """The option of llama-server that a field becomes, for a range of builds.

    A boolean writes ``name`` when true and ``off`` when false; an empty word
    writes nothing.  ``on`` is a value written behind ``name`` when true
    (``--load-mode mmap``), ``off`` then holds words separated by a space.
    Builds are upstream's numbers, both ends included.
    """

    name: str
    off: str = ""
    since: int = 0
    until: int = 10**9
    default: int | None = None
    """Number by which people say what leaving the field out says."""
    types: tuple[str, ...] = ()
    """Types of speculative decoding that read it; empty: it depends on none."""


@dataclass(frozen=True, slots=True)
class InPlace:
    """The field changes in place only where the engine has an ability.

    Elsewhere, and where memory is captured, a change restarts the server.
    """

    ability: str


@dataclass(frozen=True, slots=True)
class Only:
    """The field has a meaning on this engine alone."""

    engine: str


DEFAULT_KEY: Final = "LLAMA_API_KEY"
"""Variable of a key in a Modal secret where the stack names none."""
PROXY_TOKEN: Final = "MODAL_PROXY_TOKEN"  # noqa: S105 - a name
"""Variable, where requests are made, of the token that Modal's proxy asks for."""
ENV: Final = "server.env."
"""Begins the fields with environment variables of llama-server."""
DECIDING: Final = (
    *("CUDA_", "GGML_", "GPU_DEVICE_", "HIP_", "HSA_", "LLAMA_ARG_", "ONEAPI_"),
    *("ROCR_", "SYCL_", "VK_"),
)
"""Beginnings of variables that decide how llama-server runs, were they passed on."""
_REFERENCE: Final = re.compile(
    r"(auth\.api_key(?:s\.[a-z0-9-]+)?|server\.env\.\w+)\.(env|secret)"
)


def usual_variable(path: str) -> str:
    """Return the variable of a secret whose reference names none, by its field."""
    return path.removeprefix(ENV) if path.startswith(ENV) else DEFAULT_KEY


def references_in(fields: Flat) -> dict[str, dict[str, str]]:
    """Return where each secret of a server is found, by the path of its field."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(fields):
        if match := _REFERENCE.fullmatch(path):
            found.setdefault(match[1], {})[match[2]] = str(fields[path])
    return found


def keys_of(fields: Flat) -> dict[str, dict[str, str]]:
    """Return where each API key of a server is found, by the path of its field."""
    found = references_in(fields)
    return {path: it for path, it in found.items() if not path.startswith(ENV)}


def role_of(path: str) -> str:
    """Return the role of the weights that a field of `model` is about (`lora-0`)."""
    match path.split("."):
        case ["model", name, number, *_] if number.isdecimal():
            return f"{name}-{number}".replace("_", "-")
        case ["model", "mmproj" | "draft" | "vocoder" as name, _]:
            return name
        case _:
            return "weights"


def path_of(role: str) -> str:
    """Return the field of a role of weights beside the model (`model.lora.0`)."""
    name, _, number = role.rpartition("-")
    plain = f"{name}.{number}" if number.isdecimal() else role
    return f"model.{plain.replace('-', '_')}"


HERE = "file://"
"""Begins the address of a repository on this machine."""
TEMPLATE_ENDING = ".jinja"
"""Tells a chat template of the user's own from the name of one in llama.cpp."""


PLAIN_TEXT = "deployer.runtime.warmup:text_in"
TOOLS = "deployer.runtime.warmup:tools_in"
"""The content of files that requests begin with, and of those that they offer."""


@dataclass(frozen=True, slots=True)
class File:
    """The field names a file, or each of its items does, relative to the stack."""

    ending: str = ""
    """Another value is no file."""
    beside: str = ""
    """Field of the same section without which it is no file."""
    function: bool = False
    """A function of the file follows the last colon."""
    optional: bool = False
    """It need not be there: any word of a command may be a file."""
    digest: str = ""
    """Field that records the digest of its content: `{path}`, `{section}`, `{name}`."""
    folder: bool = False
    """It may be a folder, which stands for the files below it."""
    written: bool = False
    """llama-server writes there: it need not be there yet."""
    several: bool = False
    """Several are joined by commas."""
    scaled: bool = False
    """Each has a scale behind its last colon."""
    content: str = ""
    """`module:function` that takes its bytes, and raises ValueError for wrong ones."""

    def names_in(self, text: str) -> tuple[str, ...]:
        """Return the names that a value is made of."""
        parts = text.split(",") if self.several else [text]
        return tuple(self._name_and_rest(part)[0] for part in parts)

    def with_names(self, text: str, named: Callable[[str], str]) -> str:
        """Return a value with other names in it."""
        parts = map(self._name_and_rest, text.split(",") if self.several else [text])
        return ",".join(f"{named(name)}{rest}" for name, rest in parts)

    def _name_and_rest(self, part: str) -> tuple[str, str]:
        name, colon, scale = part.rpartition(":")
        return (name, f":{scale}") if self.scaled and colon else (part, "")


@dataclass(frozen=True, slots=True)
class Options:
    """The field contains options of llama-server, some of which name files."""

    catalogue: str
    """The module that knows them, which is above this one: `file_of`, `long_name`."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The field names a folder, relative to the stack."""

    scheme: str = ""
    """Another value is no folder of this machine."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Everything a field says about itself, with what it inherits."""

    effect: Effect = Effect.BUILD
    flags: tuple[Flag, ...] = ()
    unit: Unit | None = None
    locked: bool = False
    only: str | None = None
    memory: Memory | None = None
    ability: str = ""


KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
"""The key of a resource; it names folders."""
STACK: Final = re.compile(r"[a-z]([a-z0-9-]{0,46}[a-z0-9])?")
"""The name of a stack."""
ADDRESS: Final = re.compile(rf"{STACK.pattern}/[a-z][a-z0-9_-]{{0,47}}")
"""A stack, and what of it."""
WORD: Final = re.compile(r"[a-z][a-z0-9_-]{0,47}")
"""A word that is chosen from few: the name of an engine."""
DIGEST: Final = re.compile(r"[0-9a-f]{64}")
COMMIT: Final = re.compile(r"[0-9a-f]{40}")
REQUIREMENT: Final = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9._+!-]*"
)
TAG: Final = re.compile(
    r"b[0-9]{1,9}|v[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}|[0-9a-f]{7,40}"
)
"""A build of llama.cpp, as stacks name it."""
REPOSITORY: Final = re.compile(r"(?!\.)[A-Za-z0-9_.-]+/(?!\.)[A-Za-z0-9_.-]+")
"""Owner and name on the hub."""
IMAGE: Final = re.compile(r"[a-z0-9][A-Za-z0-9._:/-]*(@sha256:[0-9a-f]{64})?", re.ASCII)
"""An image of containers, as a Dockerfile names it."""
RELEASE_FILE: Final = re.compile(
    r"(?P<build>b[0-9]{1,9})/llama-(?P=build)-bin-[a-z0-9-]+\.tar\.gz"
)
"""An archive of upstream's, below the address of its releases."""

_LONGEST_NAME: Final = 255
"""Bytes of a file name that every file system takes."""


def is_path(text: str) -> bool:
    """Return whether a string can be a path: not empty, no control characters."""
    return bool(text) and min(text) >= " " and "\x7f" not in text


def is_file_name(text: str) -> bool:
    """Return whether a text names a file in a folder, and nothing above or below it."""
    return (
        is_path(text)
        and not any(character in text for character in "/\\")
        and text not in (".", "..")
        and len(text.encode(errors="surrogateescape")) <= _LONGEST_NAME
    )


def is_inner_path(text: str) -> bool:
    """Return whether a string is a path below a folder: relative, POSIX, no `..`."""
    return all(map(is_file_name, text.split("/")))
