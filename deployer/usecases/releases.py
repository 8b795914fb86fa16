"""The live release and those before it: compare, observe, start, stop, keep up.

`keep_up` looks after the live server of one stack, in the foreground.  It decides by
the stored state alone, and acts under the lock of the stack: only what a release
promoted is ever started, and who stops, replaces or removes the server meanwhile is
followed.  What an earlier run left behind, as in a reboot, is settled first.
"""

import os
import pwd
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from deployer.engines.contract import Endpoint, Observation, Restored
from deployer.engines.local.supervise.find import stack_folder
from deployer.engines.local.supervise.process import notify
from deployer.engines.registry import ENGINES, UNRECORDED
from deployer.errors import (
    AuthError,
    CancelledError,
    DeployerError,
    EngineError,
    LockedError,
    UsageError,
)
from deployer.planning.costs import SCALING
from deployer.planning.events import Event, Say, Talk, all_let_pass
from deployer.planning.plan import Change, Drift, Plan, gates_of, make_plan
from deployer.planning.resources import Kind
from deployer.planning.state import UNUSED, Hold, Release, State, node_of
from deployer.show.monitor import Unit, unit_text
from deployer.spelling import secrets_of, without_secrets
from deployer.stack.project_root import root_of
from deployer.state import StateStore
from deployer.system.children import growing, python_command
from deployer.system.files import Grip, grip
from deployer.usecases import runs
from deployer.usecases.apply import carry_out
from deployer.usecases.context.deployed import Deployed, deployed, locked, name_of
from deployer.usecases.context.hosts import reconciled, refuse_elsewhere
from deployer.usecases.context.settings import STATE_FOLDER, Settings
from deployer.usecases.plan import drift_of, live_once_settled, refuse_other_file


@dataclass(frozen=True, slots=True)
class Comparison:
    """Return the changes of promoting one release over another."""

    before: Release
    after: Release
    plan: Plan


def compare(
    stack_file: Path, settings: Settings, before: int, after: int
) -> Comparison:
    """The difference between two kept releases; raises UsageError for others."""
    state = deployed(stack_file, settings, anywhere=True).state
    old, new = release_of(state, before), release_of(state, after)
    seen = State(state.stack, state.engine, state.lineage, live=old.records)
    graph = {address: node_of(record) for address, record in new.records.items()}
    return Comparison(old, new, make_plan(graph, seen))


@dataclass(frozen=True, slots=True)
class Past:
    """The releases and the log of a stack."""

    state: State
    known: Sequence[runs.Ran]
    """The last entries of its log, oldest first."""
    versions: Mapping[str, str]
    """See `versions_of`."""


def past_of(stack_file: Path, settings: Settings, newest: int) -> Past:
    """Return the releases of a stack and the last entries of its log.

    Nothing that runs here is looked at, unless nothing is recorded; an engine far away
    is asked what it calls its deployments.  Raises NeverAppliedError.
    """
    name = name_of(stack_file, settings)
    store = settings.states(stack_file, name)
    state, known = store.read(), runs.remembered(store, newest)
    if state is None and known:
        return Past(State(name, UNRECORDED, lineage=""), known, {})
    if state is None or ENGINES[state.engine].abilities.remote:
        found = deployed(stack_file, settings, anywhere=True)
        return Past(found.state, known, versions_of(found))
    refuse_other_file(state, stack_file)
    return Past(state, known, {})


def versions_of(found: Deployed) -> Mapping[str, str]:
    """Return what the engine calls its deployments, by the beginning of a key.

    Nothing where the engine cannot be asked: the releases are ours to tell.
    """
    if (server := found.state.server) is None:
        return {}
    try:
        return found.engine.versions(server)
    except DeployerError:
        return {}


def release_of(state: State, number: int) -> Release:
    """A retained release; raises UsageError for others."""
    if (found := state.release(number)) is not None:
        return found
    kept = ", ".join(str(r.number) for r in state.releases) or "none"
    raise UsageError(f"release {number} is not retained", hint=f"retained: {kept}")


@dataclass(frozen=True, slots=True)
class Status:
    """How a stack is now."""

    state: State
    release: Release | None
    """The live one."""
    server: Observation | None
    endpoint: Endpoint | None
    made_of: tuple[Change, ...] = ()
    """Return the live records, each as a change that keeps it."""
    drift: tuple[Drift, ...] = ()
    """Servers that run here and that the state does not name."""
    host: str = ""
    """The other machine that it runs on; empty: this one, or none."""
    left: Mapping[str, Observation] = field(default_factory=dict)
    """Servers that an earlier run left on their way in or out, by key."""
    failed: runs.Ran | None = None
    """The last run, where it led to no release."""

    @property
    def is_well(self) -> bool:
        """True where the live server answers, and where none is live."""
        return self.server is None or (self.server.running and self.server.healthy)


def status(stack_file: Path, settings: Settings) -> Status:
    """The state of a stack, and what its server is seen to do."""
    found = deployed(stack_file, settings, thoroughly=True, anywhere=True)
    server = found.state.server
    left = {
        it.record.key: found.engine.observe(it.record)
        for it in found.state.loose
        if it.record.kind is Kind.SERVER and not found.host
    }
    failed = last_failed(found.store)
    if server is None:
        drift, host = found.drift, found.host
        return Status(found.state, None, None, None, (), drift, host, left, failed)
    release = found.state.live_release
    endpoint = found.engine.endpoint(server, candidate=False)
    if found.host:
        detail = f"runs on host `{found.host}`, and cannot be seen from here"
        seen = Observation(running=False, healthy=False, detail=detail, facts={})
    else:
        seen = found.engine.observe(server)
    graph = {a: node_of(r) for a, r in found.state.live.items()}
    kept = make_plan(graph, found.state).changes
    drift, host = found.drift, found.host
    return Status(found.state, release, seen, endpoint, kept, drift, host, left, failed)


def start(stack_file: Path, settings: Settings, say: Say) -> Endpoint:
    """Start the live release where it does not run."""
    found = deployed(stack_file, settings, thoroughly=True)
    with found.store.lock(operation="start"):
        for stray in found.strays:
            found.engine.retire(stray, say)
        found.engine.start(found.server, found.needs, say)
    _remember(found, settings, "start", say)
    return found.engine.endpoint(found.server, candidate=False)


def restart(stack_file: Path, settings: Settings, say: Say) -> tuple[Endpoint, bool]:
    """Give the live release fresh processes; also whether every request was answered.

    Where the engine cannot replace them beside those that serve, they are stopped
    first, and what an earlier run left goes as well.
    """
    found = deployed(stack_file, settings, thoroughly=True)
    with found.store.lock(operation="restart"):
        if found.engine.renew(found.server, say):
            return found.engine.endpoint(found.server, candidate=False), True
    stop(stack_file, settings, say)
    return start(stack_file, settings, say), False


def _remember(
    found: Deployed, settings: Settings, cause: str, say: Say, failed: str = ""
) -> None:
    ran = replace(runs.ran_now(settings, found.file.parent, cause), error=failed)
    runs.remember_or_say(found.store, found.state.stack, ran, settings, say)


def restore(stack_file: Path, settings: Settings, say: Say) -> Restored:
    """Restore the live server from its snapshot now.

    Raises UsageError where there is no snapshot that can be used; the server that runs
    is left alone then.
    """
    found = deployed(stack_file, settings)
    server = found.server
    snapshot = next(
        (it for it in found.state.live.values() if it.kind is Kind.SNAPSHOT), None
    )
    if snapshot is None:
        raise UsageError(
            f"stack `{found.state.stack}` was deployed without a snapshot",
            hint="add `snapshot: {enabled: true}` and run `deployer apply`",
        )
    if (why := server.outputs.get(UNUSED)) is not None:
        raise UsageError(
            f"the snapshot of `{found.state.stack}` is not used: {why}",
            hint="write `snapshot: {enabled: true}` to use it nevertheless",
        )
    with found.store.lock(operation="restore"):
        if flaw := found.engine.flaw(snapshot, server):
            raise UsageError(
                f"the snapshot cannot be used: {flaw}",
                hint=f"`deployer apply {stack_file}` takes a new one; the live"
                " server was not touched",
            )
        restored = found.engine.restore(server, found.needs, say, beside=False)
        # A run that was killed may have left its clients outside.
        found.engine.start(server, found.needs, say)
    failed = "" if restored.really else f"not restored: {restored.detail}"
    _remember(found, settings, "restart from the snapshot", say, failed)
    return restored


def stop(stack_file: Path, settings: Settings, say: Say) -> Deployed:
    """Stop the server; the release stays, and `start` starts it again."""
    found = deployed(stack_file, settings, thoroughly=True)
    with found.store.lock(operation="stop"):
        for stray in found.strays:
            found.engine.retire(stray, say)
        found.engine.stop(found.server, say)
    _remember(found, settings, "stop", say)
    return found


def scale(
    stack_file: Path, settings: Settings, say: Say, wanted: Mapping[str, int | None]
) -> Mapping[str, int | None]:
    """Change how many containers the live server has, in place; return what was before.

    ``wanted`` is by the words of `SCALING`; None: as if the stack stated nothing.  What
    it becomes is recorded: the next plan names it, and `apply` undoes it.
    Raises UsageError for numbers that contradict each other, and for an engine whose
    server is one process.
    """
    name = name_of(stack_file, settings)
    with locked(stack_file, name, settings, say, operation="scale"):
        found = deployed(stack_file, settings)
        server, engine = found.server, found.state.engine
        if not ENGINES[engine].abilities.remote:
            raise UsageError(
                f"engine `{engine}` runs one server: there is nothing to scale",
                hint="`server.parallel` is the number of requests at a time",
            )
        changed = {SCALING[word]: number for word, number in wanted.items()}
        fields = {
            path: value
            for path, value in {**server.fields, **changed}.items()
            if value is not None
        }
        least, most = fields.get(SCALING["min"]), fields.get(SCALING["max"])
        if isinstance(least, int) and isinstance(most, int) and most < max(least, 1):
            raise UsageError(
                f"`max` is below `min` ({most} < {max(least, 1)})",
                hint=f"write `max={max(least, 1)}` as well",
            )
        graph = {a: node_of(record) for a, record in found.state.live.items()}
        graph[server.address] = replace(graph[server.address], fields=fields)
        planned = found.plan_to(graph)
        carry_out(stack_file, settings, planned, found.engine, say, cause="scale")
    before = ((word, server.fields.get(SCALING[word])) for word in wanted)
    return {word: it if isinstance(it, int) else None for word, it in before}


def scale_back(
    stack_file: Path,
    settings: Settings,
    say: Say,
    wanted: Mapping[str, int],
    before: Mapping[str, int | None],
) -> bool:
    """Undo a `scale`; false where the stack was scaled otherwise or removed since."""
    server = deployed(stack_file, settings).state.server
    now = {} if server is None else server.fields
    if any(now.get(SCALING[word]) != number for word, number in wanted.items()):
        return False
    scale(stack_file, settings, say, before)
    return True


def logs(
    stack_file: Path, settings: Settings, *, lines: int, follow: bool
) -> Iterator[str]:
    """The server's own log."""
    found = deployed(stack_file, settings)
    return found.engine.logs(found.server, lines=lines, follow=follow)


def refresh(
    stack_file: Path, settings: Settings, name: str | None = None
) -> Plan | None:
    """Return what would bring back what was deployed, whatever the stack says by now.

    ``name`` is that of a stack that the file no longer asks for.  None for a stack that
    was never applied.
    """
    state = settings.state(stack_file, name or name_of(stack_file, settings))
    if state is None:
        return None
    graph = {a: node_of(record) for a, record in live_once_settled(state).items()}
    refuse_elsewhere(state, settings, stack_file)
    state, drift = reconciled(state, settings, stack_file, graph, thoroughly=True)
    drift += drift_of(stack_file, settings, state, graph)
    return make_plan(graph, state, drift=drift)


def unit_of(stack_file: Path, settings: Settings, *, of_user: bool) -> str:
    """Return a unit of systemd that keeps the live release of a stack up.

    It runs as the user who asks, in the user's own manager with ``of_user``.  Raises
    UsageError where nothing is live, where the engine keeps its servers up by itself,
    and for a path that no unit can name.
    """
    found = deployed(stack_file, settings)
    _refuse_remote(found)
    file, root = stack_file.absolute(), root_of(stack_file).absolute()
    weights = (r for r in found.state.live.values() if r.kind is Kind.WEIGHTS)
    models = (Path(str(it.outputs.get("path"))).parent for it in weights)
    code = Path(__file__).parents[2]
    command = python_command("-m", "deployer", "server", "run", str(file))
    home = str(settings.home.absolute())
    paths = (sys.prefix, sys.base_prefix, str(code), *map(str, models))
    user = "" if of_user else pwd.getpwuid(os.getuid()).pw_name
    writes = (home, str(file.parent / STATE_FOLDER.parent))
    named = (*command, str(root), *paths, *writes)
    if any(not it.isprintable() for it in named):
        raise UsageError("a path with control characters cannot stand in a unit")
    fields = {k: v for r in found.state.live.values() for k, v in r.fields.items()}
    stack = found.state.stack
    return unit_text(Unit(stack, command, user, str(root), home, paths, writes, fields))


def _refuse_remote(found: Deployed) -> None:
    if ENGINES[found.state.engine].abilities.remote:
        raise UsageError(
            f"engine `{found.state.engine}` keeps its servers up by itself",
            hint="`deployer server run` is for servers of this machine",
        )


def hold(stack_file: Path, settings: Settings, why: str, say: Say) -> State:
    """Keep everybody from applying to a stack; an empty ``why`` ends that.

    Raises UsageError where it was never applied, or is on no hold.
    """
    found = deployed(stack_file, settings, anywhere=True)
    with found.store.lock(operation="hold"):
        stored = found.store.read()
        if stored is None or not (why or stored.hold):
            raise UsageError(
                f"stack `{found.state.stack}` is not on hold",
                hint=f'`deployer hold {stack_file} --why "…"` puts it on hold',
            )
        ran = runs.ran_now(settings, stack_file.parent, "hold" if why else "hold ended")
        who = ran.origin.actor or f"{ran.origin.user}@{ran.origin.host}"
        secrets = secrets_of(settings.environment)
        kept = Hold(without_secrets(why, secrets), who, ran.at) if why else None
        held = stored.held(kept)
        found.store.write(held, expect=stored.serial)
    told = ran.why or ("" if kept is None else kept.why)
    done = replace(ran, why=told)
    runs.remember_or_say(found.store, held.stack, done, settings, say)
    return held


def remember_drift(found: Plan, stack_file: Path, settings: Settings, say: Say) -> None:
    """Record drift that is not the last thing known of a stack already."""
    store = settings.states(stack_file, found.stack)
    lines = tuple(f"{it.address}: {it.detail}" for it in found.drift)
    try:
        last = runs.remembered(store, 1)
    except DeployerError:
        last = ()
    if lines and not (last and last[-1].cause == _DRIFT and last[-1].changes == lines):
        ran = runs.ran_now(settings, stack_file.parent, _DRIFT, changes=lines)
        runs.remember_or_say(store, found.stack, ran, settings, say)


_DRIFT = "drift"


def last_failed(store: StateStore) -> runs.Ran | None:
    """Return the last run, where it failed; None where nothing is known of it."""
    try:
        known = runs.remembered(store, _LOOKED_AT)
    except DeployerError:
        return None
    tried = (ran for ran in reversed(known) if ran.error or ran.release is not None)
    last = next(tried, None)
    return last if last is not None and last.error else None


_LOOKED_AT = 20
"""Entries of a log in which the last run is looked for."""


_TICK: Final = 1.0
"""Longest time in seconds until an end that is asked for is noticed."""
_ASK_SECONDS: Final = 5.0
"""Between two questions to the server whether it answers."""
_READ_SECONDS: Final = 10.0
"""Between two looks at the state: who else promoted, or died half-way."""
_SHORT_LIFE: Final = 3.0
"""Seconds; a server that lives longer is started again without a pause."""
_PAUSES: Final = (1.0, 60.0, 2.0)
"""First and longest pause before a start, in seconds, and how they grow."""
_IN_A_ROW: Final = 600.0
"""Seconds between two crashes that count as one story."""
_PATIENCE: Final = 24 * 3600.0
"""Seconds to wait for the lock of a run that works on the stack."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """How a live server is kept up."""

    say: Say
    """May raise CancelledError, as soon as an end is asked for."""
    is_over: Callable[[], bool]
    """Tells that an end was asked for."""
    say_last: Say
    """Raises nothing: for what is done after that."""
    most_crashes: int
    """Crashes in a row after which the release before takes over; 0: never."""


def keep_up(stack_file: Path, settings: Settings, keeping: Keeping) -> str:
    """Start the live release, and again whenever it ends or hangs; say how it ended.

    Returns once an end is asked for, with the server stopped, and once the stack was
    destroyed.  Raises what keeps the first start from being tried at all: UsageError
    where nothing is live, AuthError without its keys, LockedError beside another
    `run` of the stack.
    """
    name = name_of(stack_file, settings)
    patient = replace(settings, lock_timeout=_PATIENCE)
    supervisor = _Supervisor(stack_file, name, patient, keeping)
    with _alone(settings, stack_file, name):
        try:
            supervisor.begin()
            while not keeping.is_over():
                supervisor.look()
        except CancelledError:
            pass
        except _GoneError:
            return f"nothing of `{name}` is live any more"
        supervisor.end()
    return f"stopped; `deployer server run {stack_file}` starts it again"


class _GoneError(Exception):
    """The stack has no live release any more."""


@contextmanager
def _alone(settings: Settings, stack_file: Path, name: str) -> Iterator[None]:
    """Keep a second supervisor of the stack out; the kernel frees it when we die."""
    folder = stack_folder(settings.home, stack_file.parent.absolute(), name)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / "supervisor"
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if grip(descriptor) is Grip.TAKEN:
            pid = os.read(descriptor, 20).decode("ascii", "replace").strip()
            raise LockedError(
                f"`{name}` is kept up by another `deployer server run`, pid {pid}",
                hint="`deployer status` shows what is live; end that run to replace it",
            )
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


class _Supervisor:
    """The server that is looked after, and what is remembered of it."""

    def __init__(
        self, file: Path, name: str, settings: Settings, keeping: Keeping
    ) -> None:
        self._file = file
        self._name = name
        self._settings = settings
        self._keeping = replace(keeping, say=self._heard)
        self._to_user = keeping.say
        self._found = self._released()
        self._asked = self._read = self._healthy = time.monotonic()
        self._is_proven = False
        self._pauses = growing(*_PAUSES)
        self._given_up: set[int] = set()
        """Releases from which no way led back."""

    def begin(self) -> None:
        """Settle what an earlier run left, and start the server where it is down."""
        try:
            self._bring_up()
        except (AuthError, CancelledError, UsageError):
            raise
        except DeployerError as error:
            self._complain(error)

    def look(self) -> None:
        """Wait a moment, and do what is to be done."""
        self._notify("WATCHDOG=1")
        now, server = time.monotonic(), self._found.server
        ask = now - self._asked >= _ASK_SECONDS
        why = self._found.engine.failure(server, _TICK, ask=ask)
        _reap()
        if ask:
            self._asked = now
        try:
            if why:
                self._restart(why)
            elif ask and not self._is_proven:
                self._prove()
            elif now - self._read >= _READ_SECONDS:
                self._read = now
                self._follow()
        except CancelledError:
            raise
        except DeployerError as error:
            self._complain(error)

    def end(self) -> None:
        """Let the server finish what it answers, and stop it."""
        self._notify("STOPPING=1")
        found, say = self._found, self._keeping.say_last
        with ExitStack() as held:
            with suppress(DeployerError):  # what holds it goes on without a server
                held.enter_context(found.store.lock(operation="run"))
            found.engine.stop(found.server, say)
        _reap()

    def _heard(self, event: Event) -> None:
        """Show an event; what says something does not hang."""
        self._notify("WATCHDOG=1")
        self._to_user(event)

    def _notify(self, news: str) -> None:
        notify(news, self._settings.environment)

    def _say(self, text: str) -> None:
        self._keeping.say(Talk(f"{self._name}/server", text))

    def _complain(self, error: DeployerError) -> None:
        hint = f" ({error.hint})" if error.hint else ""
        self._say(f"{error.message}{hint}")

    def _released(self) -> Deployed:
        """Return what the state says is live; raises UsageError where nothing is.

        A server that runs and that no release names was not proven: EngineError.
        """
        found = deployed(self._file, self._settings, thoroughly=True)
        _refuse_remote(found)
        stored = found.store.read()
        known = () if stored is None else stored.serving
        if not any(record.is_same_thing(found.server) for record in known):
            raise EngineError(
                f"what runs of `{self._name}` is in no release: it was not proven",
                hint=f"run `deployer apply {self._file}`",
            )
        return found

    def _bring_up(self, *, again: bool = False) -> None:
        """Bring up what the state says by now, under the lock of the stack.

        What was stopped on purpose is not started ``again``.
        """
        say = self._keeping.say
        lock = locked(self._file, self._name, self._settings, say, operation="run")
        with lock:
            self._found = found = self._released_still()
            if again and _is_stopped(found):
                return
            if found.state.promoting is not None or found.state.loose:
                self._settle(found)
            else:
                found.engine.start(found.server, found.needs, say)
        self._healthy = self._read = self._asked = time.monotonic()
        self._prove()

    def _settle(self, found: Deployed) -> None:
        """End what an earlier run began: finish a promotion, retire what was left."""
        from deployer.usecases.apply import carry_out  # noqa: PLC0415 - rarely needed

        self._say("settles what an earlier run left")
        records = live_once_settled(found.state)
        graph = {address: node_of(record) for address, record in records.items()}
        seen = found.engine.observe(found.server)
        drift = (Drift(found.server.address, seen.detail),)
        planned = found.plan_to(graph, () if seen.healthy else drift)
        carry_out(
            self._file,
            self._settings,
            planned,
            found.engine,
            self._keeping.say,
            cause="run",
        )
        self._found = found = self._released_still()
        found.engine.start(found.server, found.needs, self._keeping.say)

    def _released_still(self) -> Deployed:
        """Return the same as `_released`; _GoneError where it was destroyed since."""
        stored = self._settings.state(self._file, self._name)
        if stored is None or not stored.serving:
            raise _GoneError
        return self._released()

    def _prove(self) -> None:
        """Let the short gates of the release look at its server once it is up."""
        from deployer.usecases.check import Judging, release_fields  # noqa: PLC0415 - slow
        from deployer.usecases.steps import SHORT_GATES  # noqa: PLC0415 - as above

        found = self._found
        fields = release_fields(found.state.live)
        judge = Judging(
            found.engine,
            self._settings.keys(self._file.parent.absolute()),
            self._keeping.say,
            expects=lambda _: fields,
            keep=lambda _record, _verdicts: None,
        )
        gates = [it for it in gates_of(found.server.fields) if it in SHORT_GATES]
        self._is_proven = all_let_pass(judge(found.server, gates, candidate=False))
        if self._is_proven:
            self._say("serves")
            self._notify("READY=1\nSTATUS=serves")
        else:
            self._say("runs, and is not ready: it did not pass its short gates")
            self._notify("STATUS=runs, and did not pass its short gates")

    def _restart(self, why: str) -> None:
        """Start the server again, after a pause where it lived shortly."""
        crashes = self._crashes()
        lived = time.monotonic() - self._healthy
        self._say(f"{why}; it is started again")
        self._notify(f"STATUS={why.splitlines()[0]}; it is started again")
        most = self._keeping.most_crashes
        if most and crashes >= most and self._falls_back(crashes):
            return
        if lived >= _SHORT_LIFE:
            self._pauses = growing(*_PAUSES)
        else:
            self._rest(next(self._pauses))
        self._healthy = time.monotonic()  # a start that fails is a short life, too
        self._bring_up(again=True)

    def _crashes(self) -> int:
        """Return how many crashes in a row this one ends."""
        facts = self._found.engine.observe(self._found.server).facts
        match facts.get("restarts"):
            case {"last": list(last)}:
                ats = [str(it["at"]) for it in last if isinstance(it, dict)]
            case _:
                ats = []
        count, after = 1, datetime.now(UTC)
        for at in map(datetime.fromisoformat, reversed(ats)):
            if (after - at).total_seconds() > _IN_A_ROW:
                break
            count, after = count + 1, at
        return count

    def _falls_back(self, crashes: int) -> bool:
        """Promote the release before, where that is proven; once, and not from it."""
        release = self._found.state.live_release
        if release is None or release.rolled_back_to is not None:
            return False
        if release.number in self._given_up:
            return False
        self._given_up.add(release.number)
        from deployer.usecases.apply import rollback  # noqa: PLC0415 - rarely needed

        why = f"release {release.number} crashed {crashes} times in a row"
        try:
            rollback(
                self._file,
                self._settings,
                None,
                self._keeping.say,
                lambda _: True,
                now=True,
                why=why,
            )
        except CancelledError:
            raise
        except DeployerError as error:
            self._say(f"{why}, and no release before it takes over: {error.message}")
            return False
        self._found = self._released_still()
        self._healthy = time.monotonic()
        live = self._found.state.live_release
        target = None if live is None else live.rolled_back_to
        self._say(f"{why}: fell back to release {target}")
        self._prove()
        return True

    def _follow(self) -> None:
        """Look after what another run has promoted; settle what one left that died."""
        state = self._settings.state(self._file, self._name)
        if state is None or not state.serving:
            raise _GoneError
        server = state.server
        new = server is not None and not server.is_same_thing(self._found.server)
        left = state.promoting is not None or state.loose
        if not (new or left) or self._found.store.holder() is not None:
            return
        self._bring_up()

    def _rest(self, seconds: float) -> None:
        self._say(f"waits {seconds:g} s before the next start")
        until = time.monotonic() + seconds
        while not self._keeping.is_over() and time.monotonic() < until:
            self._notify("WATCHDOG=1")
            time.sleep(min(_TICK / 2, max(0.0, until - time.monotonic())))


def _is_stopped(found: Deployed) -> bool:
    """Return whether the live server is down because that was asked for."""
    return found.engine.observe(found.server).facts.get("condition") == "stopped"


def _reap() -> None:
    """Reap children that ended, and as PID 1 of a container the orphans of others."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
