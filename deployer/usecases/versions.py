"""Whether this deployer is the newest, and fits what it runs with and what it reads."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Final

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from deployer import DISTRIBUTION, __version__
from deployer.artefacts import lock_file
from deployer.artefacts.sources.pypi import Newest, newest
from deployer.diagnostics import Diagnostic, Severity
from deployer.errors import DeployerError
from deployer.usecases.context.settings import Settings
from deployer.usecases.context.stack_files import name_in, stack_files, text_of

_ABOUT: Final = "llama.cpp"
"""What ours is about; another project may have the name on an index."""
_INDEX: Final = "`pip config list` shows which index is asked"
_EXTRA: Final = re.compile(r"""extra == ["']([^"']+)["']""")
_DEVELOPMENT: Final = "dev"
"""The extra that users do not install."""


@dataclass(frozen=True, slots=True)
class Looked:
    """Everything that was looked at."""

    findings: tuple[Diagnostic, ...]
    newest: str | None
    """On the index; None where that is unknown."""

    @property
    def newer(self) -> bool:
        """Whether the index has a newer one."""
        return self.newest is not None and Version(self.newest) > Version(__version__)


def look(paths: Sequence[Path], settings: Settings) -> Looked:
    """Ask the index, and look at what is installed, at states and at lock files."""
    found, told = _newest(settings)
    files = [(file, name_in(text_of(file))) for file in stack_files(paths)]
    named = [(file, name) for file, name in files if name is not None]

    def state(file: Path, name: str) -> bool:
        return settings.states(file, name).read() is not None

    def lock(file: Path, _name: str) -> bool:
        return lock_file.read(lock_file.lock_path(file)) is not None

    findings = [told, *_dependencies()]
    if named:
        findings += [*_read("states", named, state), *_read("lock files", named, lock)]
    return Looked(tuple(findings), found)


def compare(found: Newest, here: str) -> Diagnostic:
    """Return what the newest version of an index means for this one."""
    try:
        there = Version(found.version)
    except InvalidVersion:
        return Diagnostic("newest", "the index tells a version that is none")
    if not any(_ABOUT in text for text in (found.summary, *found.keywords)):
        why = f"`{DISTRIBUTION}` on the index is another project: {found.summary}"
        return Diagnostic("newest", why, _INDEX)
    if there > Version(here):
        what = f"{found.version} is there"
        return Diagnostic("newest", what, _how_to_upgrade(), Severity.FINE)
    what = f"the index has {found.version}, and none that is newer"
    return Diagnostic("newest", what, severity=Severity.FINE)


def out_of_bounds(
    wanted: Sequence[str], installed: Callable[[str], str | None]
) -> Iterator[Diagnostic]:
    """What is installed and too old or too new, or lacks; of extras what is there."""
    for text in wanted:
        requirement = Requirement(text)
        marker = requirement.marker
        extra = marker is not None and not marker.evaluate({"extra": ""})
        if extra and not _is_for_users(marker):
            continue
        found = installed(requirement.name)
        if found is None and extra:
            continue
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            has = f"is {found}" if found else "is not installed"
            why = f"`{requirement.name}` {has}, and has to be {requirement.specifier}"
            wants = f"{requirement.name}{requirement.specifier}"
            hint = f"python -m pip install '{wants}'"
            yield Diagnostic("dependencies", why, hint)


def _is_for_users(marker: Marker | None) -> bool:
    """Return whether an extra that users install asks for it, on this machine."""
    names = set(_EXTRA.findall(str(marker))) - {_DEVELOPMENT}
    return any(marker.evaluate({"extra": n}) for n in names if marker is not None)


def _newest(settings: Settings) -> tuple[str | None, Diagnostic]:
    try:
        found = newest(DISTRIBUTION, environment=settings.environment)
    except DeployerError as error:
        why = f"unknown: {error.message}"
        return None, Diagnostic("newest", why, _INDEX)
    finding = compare(found, __version__)
    return found.version if finding.severity is Severity.FINE else None, finding


def _how_to_upgrade() -> str:
    """Return what to type, by how this one was installed."""
    parts = Path(sys.prefix).parts
    if "pipx" in parts:
        return f"pipx upgrade {DISTRIBUTION}"
    if "uv" in parts and "tools" in parts:
        return f"uv tool upgrade {DISTRIBUTION}"
    return f"python -m pip install --upgrade {DISTRIBUTION}"


def _dependencies() -> Iterator[Diagnostic]:
    try:
        wanted = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        why = "unknown: this deployer is not installed as a package"
        yield Diagnostic("dependencies", why)
        return
    wrong = tuple(out_of_bounds(wanted, _installed))
    yield from wrong
    if not wrong:
        what = "all within their bounds"
        yield Diagnostic("dependencies", what, severity=Severity.FINE)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _read(
    about: str,
    named: Sequence[tuple[Path, str]],
    there: Callable[[Path, str], bool],
) -> Iterator[Diagnostic]:
    """Yield whether this version reads them; what it cannot read says why."""
    count, wrong = 0, False
    for file, name in named:
        try:
            count += there(file, name)
        except DeployerError as error:
            wrong = True
            yield Diagnostic(about, error.message, error.hint)
    if not wrong:
        what = f"{count} there, and this version reads them"
        yield Diagnostic(about, what, severity=Severity.FINE)
