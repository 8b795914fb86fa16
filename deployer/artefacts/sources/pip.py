"""Running pip, and saying in our words what it complains about.

pip is run as a program with the user's own settings (`pip config`, ``PIP_*``), so
private indexes, proxies and certificates work as they do elsewhere.  Only wheels
are taken: a source archive would be executed to learn what it needs.
"""

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from deployer.errors import SourceError
from deployer.system.children import PIP, python_command, variables

_INTERVAL = 0.25  # seconds between two looks at how much has arrived

_NOTHING = re.compile(
    r"Could not find a version that satisfies the requirement (?P<what>\S+).*"
    r"\(from versions: (?P<versions>[^)]*)\)"
)
_REASONS = re.compile(
    r"connection error|SSL|Max retries|ReadTimeout|NewConnectionError|"
    r"Name or service not known|Temporary failure in name resolution|"
    r"5\d\d Server Error|Retrying \(Retry"
)
_TAGS = re.compile(
    r"none of the wheel's tags \((?P<tags>[^)]*)\) are compatible.*"
    r"/(?P<file>[^/\s]+\.whl)"
)
_HASHES = re.compile(r"^\s+(?P<what>\S+==\S+) from ", re.MULTILINE)
_DENIED = re.compile(r"\b(401|403) Client Error")
_FULL = re.compile(r"No space left on device|Disk quota exceeded")
_ERROR = re.compile(r"^ERROR: (?P<text>.*)$", re.MULTILINE)
_ADDRESS = re.compile(r"\b(?:https?|file)://\S+")


def run_pip(
    arguments: Sequence[str],
    *,
    requirement: str,
    work: Path,
    environment: Mapping[str, str],
    tick: Callable[[], None],
) -> None:
    """Run pip to its end, with temporary files below ``work``.

    ``tick`` is called now and then.  Raises SourceError with what went wrong.
    """
    log = work / "pip.log"
    command = [
        *python_command("-m", "pip", "-vv", "--no-input", "--no-color"),
        *("--disable-pip-version-check", *arguments),
    ]
    with log.open("wb") as stream:
        process = subprocess.Popen(  # noqa: S603 - a list, and no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**variables(environment, *PIP), "TMPDIR": str(work)},
        )
        try:
            status = _wait(process, tick)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if status != 0:
        said = log.read_text(encoding="utf-8", errors="replace")
        raise explain(said, requirement)


def explain(said: str, requirement: str) -> SourceError:
    """The error behind pip's verbose output; never quotes an address."""
    name, _, version = requirement.partition("==")
    if _FULL.search(said):
        return SourceError(
            f"no room to download `{requirement}`",
            hint="free space with `deployer store gc`",
        )
    if found := _HASHES.search(said):
        return SourceError(
            f"`{found['what']}` is not the pinned wheel: its sha256 differs",
            hint="the index serves another file, or the lock was made on another "
            "platform: lock again on this machine if that is expected",
        )
    if found := _NOTHING.search(said):
        return _nothing(said, found, requirement)
    if "No module named pip" in said:
        return SourceError(
            "pip is not installed beside deployer", hint="python -m ensurepip"
        )
    if _REASONS.search(said):
        return _unreachable(name)
    lines = [_ADDRESS.sub("…", match["text"]) for match in _ERROR.finditer(said)]
    return SourceError(
        f"pip could not resolve `{requirement}`: {lines[0] if lines else 'no reason'}",
        hint=f"python -m pip download --no-deps --only-binary=:all: {name}=={version}",
    )


def _nothing(said: str, found: re.Match[str], asked: str) -> SourceError:
    """Tell apart: no such package, version or platform, and nobody there."""
    # A dependency can be what is missing; pip names it as "name==1.0" or "name>=1".
    what = found["what"].rstrip(",;")
    name = re.split(r"[=<>!~;\[ ]", what)[0]
    wanted_by = "" if what == asked else f" (needed by `{asked}`)"
    versions = [v.strip() for v in found["versions"].split(",") if v.strip() != "none"]
    _, _, version = what.partition("==")
    other = {
        match["tags"]
        for match in _TAGS.finditer(said)
        if _is_wheel_of(match["file"], name, version)
    }
    if other:
        return SourceError(
            f"`{what}` has no wheel for this machine, only for "
            f"{', '.join(sorted(other))}{wanted_by}",
            hint="use a package that is built for this platform",
        )
    if versions:
        return SourceError(
            f"the index has no `{what}` for this machine{wanted_by}",
            hint=f"versions it has: {', '.join(versions[-10:])}",
        )
    if _DENIED.search(said):
        return SourceError(
            f"the index refuses to show `{name}`",
            hint="check the credentials of the index in `pip config list`",
        )
    if _REASONS.search(said):
        return _unreachable(name)
    if re.search(rf"No sources permitted for {re.escape(name)}\b", said):
        return SourceError(
            f"`{name}` has no wheels, only source archives{wanted_by}",
            hint="a source archive would have to be executed; use a wheel",
        )
    return SourceError(
        f"the index has no package `{name}`{wanted_by}", hint="check the spelling"
    )


def _is_wheel_of(file: str, name: str, version: str) -> bool:
    distribution, _, rest = file.partition("-")
    return canonical(distribution) == canonical(name) and rest.startswith(f"{version}-")


def canonical(name: str) -> str:
    """The spelling of a package name that all spellings share."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _wait(process: subprocess.Popen[bytes], tick: Callable[[], None]) -> int:
    while True:
        try:
            return process.wait(timeout=_INTERVAL)
        except subprocess.TimeoutExpired:
            tick()


def _unreachable(name: str) -> SourceError:
    return SourceError(
        f"the package index could not be reached to look for `{name}`",
        hint="check the network and `pip config list`; what is locked and in the "
        "store needs no index",
    )
