"""Looking at everything there is to look at."""

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from deployer import install_command
from deployer.artefacts import lock_file
from deployer.artefacts.sources.files import DigestCache
from deployer.diagnostics import UNCERTAIN, Diagnostic, Severity
from deployer.engines.place import doctor, doctor_server
from deployer.engines.registry import ENGINES
from deployer.errors import (
    AuthError,
    DeployerError,
    LockedError,
    StackError,
    UsageError,
    error_of,
)
from deployer.gates.harness.answers import Answer, excerpt
from deployer.gates.harness.client import Client, Target, Unanswered, connected
from deployer.llama.catalogue import Catalogue
from deployer.llama.known.advisories import advisories_of
from deployer.llama.known.symptoms import read_log
from deployer.planning.graph import tag_number
from deployer.planning.progress import unwatched
from deployer.stack.checks import NEW_KEY, key_problem
from deployer.stack.fields.model import Stack
from deployer.stack.fields.values import show_bytes
from deployer.stack.load import Loaded, load
from deployer.state.files import FileStateStore
from deployer.system.children import find_program
from deployer.system.files import read_regular
from deployer.usecases.context.deployed import deployed
from deployer.usecases.context.settings import Settings
from deployer.usecases.reading.findings import findings_of, stated_options


@dataclass(frozen=True, slots=True)
class Remedy:
    """Something safe that can be done about a finding."""

    says: str
    """The effect, for a person who is asked."""
    do: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Fixable(Diagnostic):
    """A diagnostic with something safe that can be done about it."""

    remedy: Remedy | None = None


def fine(area: str, what: str) -> Diagnostic:
    """Nothing to do."""
    return Diagnostic(area, what, severity=Severity.FINE)


def wrong(area: str, error: DeployerError) -> Diagnostic:
    """An error of ours as a finding."""
    return Diagnostic(area, error.message, error.hint)


_SECONDS = 10.0
_LINES = 20_000


@dataclass(frozen=True, slots=True)
class Deployment:
    """Return the engine's observation of the live server."""

    findings: tuple[Diagnostic, ...]
    url: str | None = None
    pid: int | None = None
    log: tuple[str, ...] = ()
    log_name: str = "log"
    token_env: str | None = None
    """Variable of the token that a proxy in front of it asks for."""


def deployment(file: Path, settings: Settings) -> Deployment:
    """The live server of a stack, by its engine; nothing live is a note."""
    try:
        found = deployed(file, settings)
        server = found.server
    except UsageError as error:
        note = Diagnostic("server", error.message, error.hint, Severity.NOTE)
        return Deployment((note,))
    except DeployerError as error:
        return Deployment((wrong("server", error),))
    seen = found.engine.observe(server)
    end = found.engine.endpoint(server, candidate=False)
    pid = seen.facts.get("pid")
    try:
        log = tuple(found.engine.logs(server, lines=_LINES, follow=False))
    except DeployerError:
        log = ()
    name = str(seen.facts.get("log") or f"log of {server.address}")
    if not seen.has_address:  # its key is sent to nobody else
        stopped = "deployer server stop" in seen.detail
        grade = Severity.NOTE if stopped else Severity.ERROR
        what = f"{server.address}: {seen.detail}"
        finding = Diagnostic("server", what, found.way_back(seen), grade)
        return Deployment((finding,), log=log, log_name=name)
    number = pid if isinstance(pid, int) else None
    return Deployment((), end.url, number, log, name, end.token_env)


def look_at_server(
    url: str,
    key: str | None,
    key_name: str,
    stack: Stack | None,
    build: int | None,
    headers: Mapping[str, str] | None = None,
) -> tuple[Diagnostic, ...]:
    """Return what a server says when it is asked: healthy, which build, which key."""
    try:
        target = Target(
            url, api_key=key or None, api_key_name=key_name, headers=headers or {}
        )
        health, props, unkeyed = asyncio.run(_answers(target))
    except UsageError as error:
        return (wrong("server", error),)
    except Unanswered as error:
        hint = "`deployer server start STACK`; `deployer logs STACK` shows its log"
        return (Diagnostic("server", str(error), hint),)
    except TimeoutError:
        what = f"{url} is not ready within {_SECONDS:.0f} s (503 while it loads)"
        hint = "wait until /health is 200; a large model loads for minutes"
        return (Diagnostic("server", what, hint, Severity.WARNING, "loading"),)
    found = tuple(_judged(url, health, props, stack, build, key_name))
    return (*found, *_open(url, unkeyed, stack))


async def _answers(target: Target) -> tuple[Answer, Answer, Answer]:
    """Return the answers of `/health`, and of `/props` with and without the key."""
    async with asyncio.timeout(_SECONDS), connected(target) as http:
        client = Client(http, target)
        health = await client.get("/health")
        unkeyed = await client.get("/props", headers={})
        await client.declare_refusals()
        keyed = unkeyed if target.api_key is None else await client.get("/props")
        return health, keyed, unkeyed


def _open(url: str, unkeyed: Answer, stack: Stack | None) -> Iterator[Diagnostic]:
    """A server that asks nobody for a key; a note where the stack says so."""
    if unkeyed.status != 200:
        return
    what = f"anyone may use {url}: it answers without an API key"
    if stack is not None and stack.api_keys:
        hint = "the stack has a key: `deployer apply`, or something else has the port"
        yield Diagnostic("server", what, hint, Severity.ERROR, "open-server")
    elif stack is not None:
        reason = "" if stack.auth is None else stack.auth.open
        said = f"`auth.open`: {reason}" if reason else "only this machine reaches it"
        yield Diagnostic("server", what, said, Severity.NOTE, "open-server")
    else:
        hint = "give it a key (`auth.api_key`), or let no other client reach it"
        yield Diagnostic("server", what, hint, Severity.WARNING, "open-server")


def _judged(
    url: str,
    health: Answer,
    props: Answer,
    stack: Stack | None,
    build: int | None,
    key_name: str,
) -> Iterator[Diagnostic]:
    if health.status != 200:
        what = f"{url}/health answers {health.status}"
        yield Diagnostic("server", what, "is this a llama-server?")
        return
    yield fine("server", f"{url} is healthy")
    if props.status == 401:
        what = f"{url} refuses the key (401)"
        hint = (
            f"check `{key_name}`: the server was started with another key"
            if key_name
            else "name the variable that holds it: `auth.api_key.env`"
        )
        yield Diagnostic("server", what, hint, Severity.ERROR, "no-key-sent")
        return
    yield from _build(props, stack, build)


def _build(
    props: Answer, stack: Stack | None, build: int | None
) -> Iterator[Diagnostic]:
    try:
        said = json.loads(props.body).get("build_info")
    except (ValueError, AttributeError):
        said = None
    if not isinstance(said, str):
        what = f"/props answers {props.status} and names no build"
        yield Diagnostic("server", what, "is this a llama-server?", Severity.WARNING)
        return
    number = said.removeprefix("b").partition("-")[0]
    if number in ("0", "1"):
        what = f"the server is `{said}`: it was built without history"
        hint = "`llama_cpp.commit` proves it; deployer's own builds know their number"
        yield Diagnostic("server", what, hint, Severity.NOTE, "no-build-number")
    elif build is not None and number != str(build):
        tag = stack.llama_cpp.tag if stack is not None else f"b{build}"
        what = f"the server is `{said}`, the stack pins `{tag}`"
        hint = "`deployer apply`; or something else has the port"
        yield Diagnostic("server", what, hint, Severity.ERROR, "stale-build")
    else:
        yield fine("server", f"it is `{said}`")


def read(lines: Iterable[str], name: str) -> tuple[Diagnostic, ...]:
    """Failures of a log, known or not, and then what is worth a look."""
    found = read_log(lines)
    if found.empty:
        hint = "name the log of the server; `deployer logs STACK` prints it"
        return (Diagnostic("log", f"{name}: nothing to read", hint),)
    known = (
        Diagnostic(
            "log",
            f"{name}:{seen.line}: {seen.symptom.meaning}{_times(seen.times)}",
            seen.symptom.hint,
            seen.symptom.severity,
            seen.symptom.id,
        )
        for seen in found.seen
    )
    unknown = (
        Diagnostic(
            "log",
            f"{name}: not known to deployer: line {it.line}: `{excerpt(it.text, 200)}`",
            "search for it at github.com/ggml-org/llama.cpp/issues",
        )
        for it in found.unknown
    )
    # Errors first: a warning of line 2 is not why a server ended in line 20.
    found_here = (*known, *unknown)
    graded = sorted(found_here, key=lambda it: it.severity is not Severity.ERROR)
    return tuple(graded) or (fine("log", f"{name} shows no known issue"),)


def _times(count: int) -> str:
    return f", {count} times" if count > 1 else ""


CONFIG = Path("/etc/llama.cpp/config.ini")
_CONFIG_SINCE = 10241
"""First build that may read it (b10240 does not, b10435 does)."""

_LOW = 5 * 10**9
_EMPTY = 10**9
_OLD = 3600.0
"""Seconds after which a download that nothing is written to was interrupted."""


def programs(stack: Stack | None, settings: Settings) -> Iterator[Diagnostic]:
    """Yield what a build from source needs; without a stack, what any would."""
    from deployer.llama.build.compile import find_toolchain  # noqa: PLC0415 - only here

    wanted = stack.llama_cpp if stack is not None else None
    ready = wanted is not None and not wanted.may_be_built
    if ready or (stack is not None and _runs_elsewhere(stack)):
        return
    may_not = wanted is None or "release" in wanted.sources
    grade = Severity.WARNING if may_not else Severity.ERROR
    try:
        cuda = wanted.cuda if wanted is not None else None
        found = find_toolchain(settings.environment, cuda=cuda)
    except DeployerError as error:
        yield Diagnostic("machine", error.message, error.hint, grade)
    else:
        parts = f"cmake, a compiler, {found.generator}"
        yield fine("machine", f"{parts}{', ccache' if found.ccache else ''}")
        for note in found.notes:
            yield Diagnostic("machine", note, severity=Severity.NOTE)
    if find_program("git", settings.environment) is None:
        what = "there is no `git`: sources cannot be cloned, patches not applied"
        hint = "apt install git, or brew install git"
        yield Diagnostic("machine", what, hint, grade)
    else:
        yield fine("machine", "git")


def extras(stack: Stack) -> Iterator[Diagnostic]:
    """Yield whether the optional parts of deployer that any engine needs are here."""
    if stack.model.repo is not None:
        yield _extra("huggingface_hub", "hub", "fetching from the hub")


def _runs_elsewhere(stack: Stack) -> bool:
    return ENGINES[stack.engine].abilities.remote


def _extra(module: str, extra: str, what_for: str) -> Diagnostic:
    if find_spec(module) is not None:
        return fine("machine", module)
    what = f"`{module}` is not installed: {what_for} needs it"
    return Diagnostic("machine", what, install_command(extra))


def server_program(
    stack: Stack, file: Path, settings: Settings
) -> Iterator[Diagnostic]:
    """Check that a llama-server named by path is the one for this stack.

    It is not started: it may have come with a pull request.  Its build is known once
    an `apply` asked it.
    """
    from deployer.artefacts.sources import paths  # noqa: PLC0415 - only here
    from deployer.llama import description  # noqa: PLC0415 - only here

    if stack.llama_cpp.binary is None or _runs_elsewhere(stack):
        return
    path = file.parent / stack.llama_cpp.binary
    try:
        pin = paths.pin_binary(
            path,
            here=paths.this_platform(),
            cache=DigestCache(settings.store.digests),
            progress=unwatched,
        )
    except DeployerError as error:
        yield wrong("machine", error)
        return
    stated, wanted = description.find(settings.home, pin), tag_number(stack)
    build = None if stated is None else stated.build
    what = f"{path} is a program for this machine"
    if build is None or wanted is None:
        hint = f"`{path} --version` reports it; the stack says {stack.llama_cpp.tag}"
        yield Diagnostic("machine", f"{what}, of an unknown build", hint, Severity.NOTE)
    elif build != wanted:
        what, hint = description.other_build(str(path), build, wanted)
        yield Diagnostic("machine", what, hint, Severity.ERROR)
    else:
        yield fine("machine", f"{what}, b{build}")


def surroundings(
    stack: Stack | None,
    on: Catalogue | None,
    settings: Settings,
    config: Path = CONFIG,
) -> Iterator[Diagnostic]:
    """Yield what changes a llama-server from outside of its stack."""
    stated = None if on is None else on.states("sign config-file")
    build = None if on is None else on.build
    reads = stated if stated is not None else build is None or build >= _CONFIG_SINCE
    if config.exists() and reads and (stack is None or not _runs_elsewhere(stack)):
        what = f"`{config}` is read by llama-server, and no stack shows what it sets"
        hint = f"move its lines into `server` of the stack, and remove {config}"
        yield Diagnostic("machine", what, hint, Severity.WARNING)
    names = [n for n in settings.environment if n.startswith("LLAMA_ARG_")]
    if names:
        what = f"`{'`, `'.join(sorted(names))}` set options of llama-server"
        hint = "deployer starts servers without them: write them into the stack"
        yield Diagnostic("machine", what, hint, Severity.NOTE)


def store(settings: Settings, *, now: float) -> Iterator[Diagnostic]:
    """The artefact store: its entries, its room, what interrupted downloads left."""
    home = settings.home
    folder = next(f for f in (home, *home.parents) if f.is_dir())
    free = shutil.disk_usage(folder).free
    if free < _LOW:
        grade = Severity.ERROR if free < _EMPTY else Severity.WARNING
        what = f"{show_bytes(free)} are free for the store in `{home}`"
        hint = "`deployer store gc`, or set `DEPLOYER_HOME` to another disk"
        yield Diagnostic("store", what, hint, grade)
    entries = settings.store.entries()
    broken = False
    for entry in entries:
        for problem in entry.problems():
            broken = True
            hint = "`deployer apply` makes it again; `deployer store verify` reads all"
            what = f"{entry.kind} {entry.key[:12]}: {problem}"
            yield Diagnostic("store", what, hint)
    if not broken:
        what = f"{len(entries)} artefacts in {home}, {show_bytes(free)} free"
        yield fine("store", what)
    yield from _leftovers(settings, now)


def _leftovers(settings: Settings, now: float) -> Iterator[Diagnostic]:
    downloads = settings.store.downloads
    found = [
        path
        for pattern in ("*.part", "*.new")
        for path in downloads.glob(pattern)
        if path.is_file() and now - path.stat().st_mtime > _OLD
    ]
    if not found:
        return
    total = show_bytes(sum(path.stat().st_size for path in found))

    def remove() -> None:
        for path in found:
            path.unlink(missing_ok=True)

    yield Fixable(
        "store",
        f"{len(found)} interrupted downloads hold {total} in {downloads}",
        "a fetch carries on with them where it can",
        Severity.NOTE,
        remedy=Remedy(f"remove {len(found)} files ({total}) in {downloads}", remove),
    )


_PRIVATE = 0o077
"""Return the access of other users to a file of keys."""


@dataclass(frozen=True, slots=True)
class Patient:
    """A stack file, as far as it can be read."""

    file: Path
    loaded: Loaded | None
    known: Catalogue | None
    """Its build; None where the stack or its lock file cannot be read."""
    problems: tuple[Diagnostic, ...]

    @property
    def build(self) -> int | None:
        """Upstream's number of the build, where it is known."""
        return None if self.known is None else self.known.build

    @property
    def stack(self) -> Stack | None:
        """Return its content; None for a file without any that is valid."""
        return None if self.loaded is None else self.loaded.stack


def patient_of(file: Path, settings: Settings) -> Patient:
    """Read a stack, and what is wrong with it in itself."""
    try:
        loaded = load(file, allowed=settings.allowed(file))
    except StackError as error:
        return Patient(file, None, None, tuple(_told(error.problems)))
    try:
        locked = lock_file.read(lock_file.lock_path(file))
    except DeployerError as error:
        return Patient(file, loaded, None, (wrong("stack", error),))
    known = stated_options(loaded, file, settings, locked)
    found = tuple(_told(findings_of(loaded, known, advisories_of(settings.advisories))))
    good = (Severity.FINE, Severity.NOTE)
    if all(f.severity in good and f.code != UNCERTAIN for f in found):
        found = (fine("stack", f"{file} is valid"), *found)
    return Patient(file, loaded, known, found)


def _told(problems: Iterable[Diagnostic]) -> Iterator[Diagnostic]:
    for problem in problems:
        yield replace(problem, path="stack", what=f"{problem.place}: {problem.what}")


def keys(stack: Stack, folder: Path, settings: Settings) -> Iterator[Diagnostic]:
    """The variables that a stack names, and the file that may hold them."""
    file = folder / ".env"
    for path, name in ((path, it.env) for path, it in stack.references.items()):
        if name is not None:
            use = "" if path in stack.api_keys else path
            yield _secret(name, use, file, settings.keys(folder).get(name))
    if file.is_file() and file.stat().st_mode & _PRIVATE:
        yield Fixable(
            "keys",
            f"others can read `{file}`, which may hold keys",
            f"chmod 0600 {file}",
            Severity.WARNING,
            remedy=Remedy(f"chmod 0600 {file}", lambda: file.chmod(0o600)),
        )


def _secret(name: str, field: str, file: Path, value: str | None) -> Diagnostic:
    """Report a variable that holds a key, or the secret of a ``field``."""
    if not value:
        why = "requests would carry no key, and get 401"
        return Fixable(
            "keys",
            f"`{name}` is not set: {f'`{field}` needs it' if field else why}",
            f"`export {name}=…`, or write `{name}=…` into `{file}`",
            remedy=Remedy(
                f"add the line `{name}=` to {file}, for you to fill in",
                lambda: _add_line(file, f"{name}=\n"),
            ),
        )
    if not field and (problem := key_problem(value)):
        what = f"the API key in `{name}` cannot be used: {problem}"
        return Diagnostic("keys", what, NEW_KEY)
    return fine("keys", f"`{name}` is set")


def _add_line(file: Path, line: str) -> None:
    before = read_regular(file).decode("utf-8") if file.exists() else ""
    gap = "" if not before or before.endswith("\n") else "\n"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(f"{gap}{line}")


def state(stack: Stack, file: Path, settings: Settings) -> Iterator[Diagnostic]:
    """Yield whether the state can be read, and whether somebody works on the stack."""
    try:
        states = settings.states(file, stack.name)
        states.read()
        holder = states.holder()
    except LockedError as error:
        yield Diagnostic("state", error.message, error.hint, Severity.WARNING)
        return
    except DeployerError as error:
        yield wrong("state", error)
        return
    files = states if isinstance(states, FileStateStore) else None
    lock = None if files is None else files.folder / f"{stack.name}.lock"
    if holder is not None:
        what = f"the stack is locked by {holder}"
        hint = "wait for it, or stop it: the lock goes with its process"
        yield Diagnostic("state", what, hint, Severity.NOTE)
    elif lock is not None and lock.exists():

        def take_over() -> None:
            with states.lock(operation="doctor"):
                """Taking the lock of a process that is gone, and letting it go."""

        yield Fixable(
            "state",
            f"`{lock}` was left by a process that is gone",
            "the next `deployer apply` takes it over",
            Severity.NOTE,
            remedy=Remedy(f"remove {lock}", take_over),
        )


@dataclass(frozen=True, slots=True)
class Log:
    """A log to read instead of the engine's."""

    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """The subjects of doctor beside this machine."""

    files: tuple[Path, ...] = ()
    """Stacks."""
    url: str | None = None
    """A server, instead of the one that the stack has live."""
    log: Log | None = None


def examine(asked: Asked, settings: Settings, *, now: float) -> Iterator[Diagnostic]:
    """Every finding, area by area; what is not there is not looked at."""
    for file in asked.files:
        try:
            yield from _stack(file, asked, settings)
        except Exception as error:  # noqa: BLE001 - one stack does not hide others
            yield wrong("stack", error_of(error, file))
    if asked == Asked():
        yield from programs(None, settings)
        for name in ENGINES:
            yield from doctor(name, None, settings.environment, settings.home)
        yield from surroundings(None, None, settings)
    if asked.log is None and (asked.url is None or asked.files):
        yield from store(settings, now=now)
    if not asked.files and asked.url is not None:
        yield from look_at_server(asked.url, None, "", None, None)
    if asked.log is not None:
        yield from read(asked.log.lines, asked.log.name)


def _stack(file: Path, asked: Asked, settings: Settings) -> Iterator[Diagnostic]:
    patient = patient_of(file, settings)
    yield from patient.problems
    stack, folder = patient.stack, file.parent
    running = deployment(file, settings) if stack is not None else None
    if stack is None or running is None:
        return
    yield from keys(stack, folder, settings)
    yield from state(stack, file, settings)
    yield from programs(stack, settings)
    yield from extras(stack)
    yield from doctor(stack.engine, stack, settings.environment, settings.home)
    yield from server_program(stack, file, settings)
    yield from surroundings(stack, patient.known, settings)
    if asked.url is None:
        yield from doctor_server(stack, running.pid)
        yield from running.findings
    if (url := asked.url or running.url) is not None:
        names = [it.env for it in stack.api_keys.values() if it.env]
        known = settings.keys(folder)
        # Every one of them is accepted: the first whose value is here will do.
        name = next(filter(known.get, names), next(iter(names), ""))
        key = known.get(name) if name else None
        try:
            headers = known.halves(running.token_env or "")
        except AuthError as error:
            yield wrong("keys", error)
        else:
            yield from look_at_server(url, key, name, stack, patient.build, headers)
    if asked.log is None and asked.url is None and running.log:
        yield from read(running.log, running.log_name)
