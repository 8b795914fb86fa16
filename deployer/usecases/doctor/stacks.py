"""The stack itself, its keys, and the lock of its state."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deployer.artefacts import lock_file
from deployer.errors import DeployerError, LockedError, StackError
from deployer.stack.access import NEW_KEY, key_problem
from deployer.stack.fields.model import Stack
from deployer.stack.load import Loaded, load
from deployer.state.files import FileStateStore
from deployer.system.regular_files import read_regular
from deployer.usecases.context.settings import Settings
from deployer.usecases.doctor.finding import GRADES, Finding, Grade, Remedy, fine, wrong
from deployer.usecases.reading.known_issues import notices_of, number_of
from deployer.usecases.reading.read_stack import refuse_build, refuse_options

_PRIVATE = 0o077
"""What others may do to a file that holds keys."""


@dataclass(frozen=True, slots=True)
class Patient:
    """A stack file, as far as it can be read."""

    file: Path
    loaded: Loaded | None
    build: int | None
    problems: tuple[Finding, ...]

    @property
    def stack(self) -> Stack | None:
        """What it says; None for a file that says nothing that holds."""
        return None if self.loaded is None else self.loaded.stack


def patient(file: Path, settings: Settings) -> Patient:
    """Read a stack, and what is wrong with it in itself."""
    try:
        loaded = load(file, allowed=settings.allowed)
    except StackError as error:
        return Patient(file, None, None, tuple(_told(error)))
    try:
        locked = lock_file.read(lock_file.lock_path(file))
    except DeployerError as error:
        return Patient(file, loaded, None, (wrong("stack", error),))
    build = number_of(loaded.stack, locked)
    found = tuple(_static(loaded, build))
    if all(f.grade in (Grade.FINE, Grade.NOTE) for f in found):
        found = (fine("stack", f"{file} is valid"), *found)
    return Patient(file, loaded, build, found)


def _static(loaded: Loaded, build: int | None) -> Iterator[Finding]:
    for refuse in (refuse_options, refuse_build):
        try:
            refuse(loaded)
        except StackError as error:
            yield from _told(error)
    for notice in notices_of(loaded, build):
        what = f"{notice.place}: {notice.what}"
        grade = GRADES[notice.severity]
        yield Finding("stack", grade, what, notice.hint, notice.id)


def _told(error: StackError) -> Iterator[Finding]:
    for problem in error.problems:
        what = f"{problem.place}: {problem.what}"
        yield Finding("stack", Grade.ERROR, what, problem.hint)


def keys(stack: Stack, folder: Path, settings: Settings) -> Iterator[Finding]:
    """The variables that a stack names, and the file that may hold them."""
    file = folder / ".env"
    name = stack.api_key.env if stack.api_key is not None else None
    if name is not None:
        yield _key(name, file, settings.keys(folder).get(name))
    if file.is_file() and file.stat().st_mode & _PRIVATE:
        yield Finding(
            "keys",
            Grade.WARNING,
            f"others can read `{file}`, which may hold keys",
            f"chmod 0600 {file}",
            remedy=Remedy(f"chmod 0600 {file}", lambda: file.chmod(0o600)),
        )


def _key(name: str, file: Path, value: str | None) -> Finding:
    if value is None:
        return Finding(
            "keys",
            Grade.ERROR,
            f"`{name}` is not set: requests would carry no key, and get 401",
            f"`export {name}=…`, or write `{name}=…` into `{file}`",
            remedy=Remedy(
                f"add the line `{name}=` to {file}, for you to fill in",
                lambda: _add_line(file, f"{name}=\n"),
            ),
        )
    if problem := key_problem(value):
        what = f"the API key in `{name}` cannot be used: {problem}"
        return Finding("keys", Grade.ERROR, what, NEW_KEY)
    return fine("keys", f"`{name}` is set")


def _add_line(file: Path, line: str) -> None:
    before = read_regular(file).decode("utf-8") if file.exists() else ""
    gap = "" if not before or before.endswith("\n") else "\n"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(f"{gap}{line}")


def state(stack: Stack, file: Path, settings: Settings) -> Iterator[Finding]:
    """Yield whether the state can be read, and whether somebody works on the stack."""
    try:
        states = settings.states(file, stack.name)
        states.read()
        holder = states.holder()
    except LockedError as error:
        yield Finding("state", Grade.WARNING, error.message, error.hint)
        return
    except DeployerError as error:
        yield wrong("state", error)
        return
    files = states if isinstance(states, FileStateStore) else None
    lock = None if files is None else files.folder / f"{stack.name}.lock"
    if holder is not None:
        what = f"the stack is locked by {holder}"
        hint = "wait for it, or stop it: the lock goes with its process"
        yield Finding("state", Grade.NOTE, what, hint)
    elif lock is not None and lock.exists():

        def take_over() -> None:
            with states.lock(operation="doctor"):
                """Taking the lock of a process that is gone, and letting it go."""

        yield Finding(
            "state",
            Grade.NOTE,
            f"`{lock}` was left by a process that is gone",
            "the next `deployer apply` takes it over",
            remedy=Remedy(f"remove {lock}", take_over),
        )
