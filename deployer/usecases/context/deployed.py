"""Finding what was deployed from a stack, without needing the stack to be right.

Rolling back or stopping must work while the file is being edited, so the name alone
is read from it; engine and everything else come from the state.
"""

import os
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from os import urandom
from pathlib import Path

from deployer.engines.contract import Endpoint, Engine, Observation
from deployer.engines.registry import ENGINES, UNRECORDED
from deployer.errors import EngineError, NeverAppliedError, UsageError
from deployer.planning.events import Say, Talk
from deployer.planning.plan import Drift, make_plan
from deployer.planning.progress import Progress
from deployer.planning.resources import Graph
from deployer.planning.state import Record, State
from deployer.stack.fields.values import Flat, show_seconds
from deployer.state import StateStore
from deployer.state.lock import Patience, lock_in_time
from deployer.usecases.context.hosts import (
    elsewhere,
    placed,
    reconciled,
    refuse_elsewhere,
)
from deployer.usecases.context.settings import Options, Settings
from deployer.usecases.context.stack_files import name_in, text_of
from deployer.usecases.plan import Planned, prepare, refuse_other_file
from deployer.usecases.reading.prepared import Prepared


@dataclass(frozen=True, slots=True)
class Deployed:
    """A stack that has a state."""

    file: Path
    state: State
    """With the servers that run here and that the stored one lacks."""
    store: StateStore
    engine: Engine
    drift: tuple[Drift, ...] = ()
    """Each of those servers."""
    strays: tuple[Record, ...] = ()
    """Servers among them that no client reaches."""
    host: str = ""
    """The other machine that it runs on; empty: this one, or none."""

    @property
    def server(self) -> Record:
        """The live server; raises UsageError when nothing is live."""
        found = self.state.server
        if found is None:
            raise UsageError(
                f"nothing of stack `{self.state.stack}` is live",
                hint=f"run `deployer apply {self.file}`",
            )
        return found

    def answering(self) -> Endpoint:
        """The endpoint of the live server, for who sends it requests and its key.

        On this machine another process may have taken the port of a server that died:
        raises EngineError unless the live one runs and has it.
        """
        if not ENGINES[self.state.engine].abilities.remote:
            seen = self.engine.observe(self.server)
            if not seen.has_address:
                what = f"{self.server.address}: {seen.detail}"
                raise EngineError(what, hint=self.way_back(seen))
        return self.engine.endpoint(self.server, candidate=False)

    def way_back(self, seen: Observation) -> str:
        """Return what gives a server its address again."""
        if seen.running:
            return "end the process that has its port: `ss -ltnp` shows which one it is"
        return f"run `deployer server start {self.file}`"

    @property
    def needs(self) -> dict[str, Flat]:
        """Outputs of what the live server is made from, by kind."""
        return {r.role: r.outputs for r in self.state.live.values()}

    def plan_to(self, graph: Graph, drift: tuple[Drift, ...] = ()) -> Planned:
        """A plan towards a graph that comes from the state."""
        state = self.state
        made = make_plan(graph, state, drift=(*self.drift, *drift))
        prepared = Prepared(state.stack, state.engine, graph, {}, ())
        return Planned(made, prepared, state, None)


def deployed(
    stack_file: Path,
    settings: Settings,
    name: str | None = None,
    *,
    thoroughly: bool = False,
    anywhere: bool = False,
) -> Deployed:
    """Return what is recorded of a stack, or runs here without being recorded.

    ``name`` is that of a stack that the file no longer asks for.  Raises UsageError
    where it was never applied, and EngineError where it runs on another machine,
    unless ``anywhere`` is fine.  ``thoroughly`` also finds servers by their processes.
    """
    name = name or name_of(stack_file, settings)
    store = settings.states(stack_file, name)
    stored = store.read()
    state = stored or State(name, UNRECORDED, urandom(16).hex(), file=stack_file.name)
    refuse_other_file(state, stack_file)
    if not anywhere:
        refuse_elsewhere(state, settings, stack_file)
    drift: tuple[Drift, ...] = ()
    if not (host := elsewhere(state, settings, stack_file)):
        state, drift = reconciled(
            state, settings, stack_file, {}, thoroughly=thoroughly
        )
        state = placed(state, settings)
    if stored is None and not drift:
        raise NeverAppliedError(
            f"stack `{name}` was never applied from here",
            hint=f"run `deployer apply {stack_file}`",
        )
    engine = settings.engine(state.engine, stack_file)
    left = () if stored is None else stored.loose
    strays = tuple(it.record for it in state.loose if it not in left)
    return Deployed(stack_file, state, store, engine, drift, strays, host)


def name_of(stack_file: Path, settings: Settings, *, cached: bool = True) -> str:
    """The name in a stack file, even in one with mistakes elsewhere."""
    if (name := name_in(text_of(stack_file))) is not None:
        return name
    return prepare(stack_file, settings, Options(cached=cached))[0].name


def locked(
    stack_file: Path, name: str, settings: Settings, say: Say, *, operation: str
) -> AbstractContextManager[None]:
    """Hold the lock of a stack; LockedError where others do for too long.

    Reported are a lock that is taken over, its holder once, and the time waited again
    and again, so that the waiting can be ended.
    """

    def taken(line: str) -> None:
        say(Talk(name, line))

    store = settings.states(stack_file, name, notify=taken)
    patience = Patience(settings.lock_timeout, time.monotonic, time.sleep, _chance)
    told: set[str] = set()

    def tell(holder: str, waited: float) -> None:
        if holder not in told:
            told.add(holder)
            limit = show_seconds(patience.seconds)
            say(Talk(name, f"{holder}: waiting, for {limit} at most"))
        total = round(patience.seconds)
        say(Progress("the lock", round(waited), total, unit="s"))

    return lock_in_time(store, patience, operation=operation, tell=tell)


def _chance() -> float:
    return int.from_bytes(os.urandom(2)) / 0xFFFF
