"""States as things to look at, to carry elsewhere and to mend, and of what runs."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from deployer.artefacts import lock_file
from deployer.engines.local import ports
from deployer.engines.local.supervise.find import (
    Started,
    identity_of,
    refuse_changed,
    run_folder,
    started,
)
from deployer.engines.place import Place
from deployer.errors import (
    DeployerError,
    EngineError,
    StackError,
    StalePlanError,
    StateError,
    UsageError,
)
from deployer.llama.adopted import Value, Word, adopted
from deployer.llama.catalogue import catalogue
from deployer.planning.events import Say, Talk
from deployer.planning.resources import Kind, Node, key_of
from deployer.planning.state import Record, Release, State, record_of
from deployer.spelling import shown
from deployer.stack.addresses import is_loopback
from deployer.stack.fields.values import DECIDING, DEFAULT_KEY, Flat
from deployer.stack.files import FLAGS, named_in
from deployer.state import StateStore
from deployer.state.files import from_json, rescued, to_json
from deployer.state.places import place_at, stacks_at, store_at
from deployer.system.files import guarded, read_regular, replace_file
from deployer.usecases.adopt import Adoption
from deployer.usecases.context import gc_roots
from deployer.usecases.context.deployed import locked, name_of
from deployer.usecases.context.hosts import elsewhere, placed, taken_over
from deployer.usecases.context.settings import Options, Settings, utc_now
from deployer.usecases.context.stack_files import name_in, stack_files, text_of
from deployer.usecases.plan import prepare
from deployer.usecases.reading.launches import Launch
from deployer.usecases.reading.prepared import Prepared


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a state that is kept."""

    serial: int
    release: int
    """The newest release it knows of; 0 for none."""
    whole: bool
    """It can be read."""


def states_in(folder: Path, settings: Settings) -> tuple[str, ...]:
    """The stacks of a folder that have a state."""
    return stacks_at(settings.state_place(folder / "stack.yaml"))


def undeclared(folder: Path, settings: Settings) -> tuple[str, ...]:
    """The stacks of a folder that have something live, and no file that asks for it."""
    asked = {name_in(text_of(file)) for file in stack_files((folder,))}
    found = (it for it in states_in(folder, settings) if it not in asked)
    place = folder / "stack.yaml"
    return tuple(
        name
        for name in found
        if (state := settings.states(place, name).read()) and state.serving
    )


def store_of(stack_file: Path, settings: Settings) -> StateStore:
    """Where the state of a stack is kept."""
    return settings.states(stack_file, name_of(stack_file, settings))


def pull(stack_file: Path, settings: Settings, serial: int | None) -> State:
    """The stored state, or a kept version of it; raises UsageError for neither."""
    store = store_of(stack_file, settings)
    if serial is not None and serial in store.serials():
        return store.kept(serial)
    found = store.read()
    if found is None:
        raise UsageError(
            f"stack `{store.stack}` has no state in `{store.place}`",
            hint=f"run `deployer apply {stack_file}`",
        )
    if serial not in (None, found.serial):
        kept = ", ".join(map(str, (*store.serials(), found.serial)))
        raise UsageError(f"serial {serial} is not retained", hint=f"retained: {kept}")
    return found


def write_copy(out: Path, state: State) -> None:
    """Write a state into a file; raises UsageError where that fails."""
    try:
        with guarded(out.parent):
            replace_file(out, to_json(state).encode())
    except OSError as error:
        raise UsageError(f"cannot write `{out}`: {error.strerror}") from error


def push(stack_file: Path, settings: Settings, file: Path, *, force: bool) -> State:
    """Store the state in a file; returns what is stored then.

    Raises StalePlanError for another lineage, an older serial, or the same serial
    with another content.  With ``force`` what is in the file becomes the next version
    of what is stored, which stays in the history.
    """
    try:
        new = from_json(read_regular(file), str(file))
    except OSError as error:
        raise UsageError(f"cannot read `{file}`: {error.strerror}") from error
    store = store_of(stack_file, settings)
    if new.stack != store.stack:
        raise UsageError(
            f"`{file}` is the state of `{new.stack}`, not of `{store.stack}`"
        )
    with store.lock(operation="state push"):
        stored = store.read()
        if stored is None or stored == new:
            store.write(new, expect=0)
            return new
        if force:
            new = replace(new, lineage=stored.lineage, serial=stored.serial + 1)
        elif told := _no_successor(stored, new):
            raise StalePlanError(
                told, hint="`--force` stores it as the next version all the same"
            )
        store.write(new, expect=stored.serial)
        return new


def migrate(stack_file: Path, settings: Settings, url: str) -> StateStore:
    """Copy state and history to another place; returns the store there.

    Both are locked meanwhile.  Raises StateError where another state lies there.
    """
    here = store_of(stack_file, settings)
    there = store_at(place_at(url), here.stack, stack_file=stack_file)
    if there.place == here.place:
        raise UsageError(f"the state lies in `{here.place}` already")
    with ExitStack() as locks:
        for store in (here, there):
            locks.enter_context(store.lock(operation="state migrate"))
        state = here.read()
        if state is None:
            raise UsageError(f"there is no state in `{here.place}`")
        lies = there.read()
        if lies is not None:
            _refuse_target(lies, state, there)
        for serial in here.serials():
            _copy(here.kept(serial), there)
        _copy(state, there)
        if not there.logged(1):
            for line in here.logged():
                there.log(line)
    return there


def take_over(stack_file: Path, settings: Settings, host: str) -> State:
    """Forget what another machine ran, so that this one can deploy the stack.

    Nothing is stopped there.  Raises UsageError unless it is that machine, by its
    name, that the stack runs on.
    """
    store = store_of(stack_file, settings)
    with store.lock(operation="state take-over"):
        stored = store.read()
        found = "" if stored is None else elsewhere(stored, settings, stack_file)
        if stored is None or not found:
            raise UsageError(f"stack `{store.stack}` runs on no other machine")
        if host != found:
            raise UsageError(
                f"stack `{store.stack}` runs on host `{found}`, not on `{host}`",
                hint=f"`deployer state take-over {stack_file} {found}`",
            )
        new = taken_over(stored, settings)
        store.write(new, expect=stored.serial)
        return new


def repair(stack_file: Path, settings: Settings) -> State | None:
    """Put the newest whole version in the place of a state that cannot be read.

    None where it can be.  Raises StateError where nothing whole is left.
    """
    store = store_of(stack_file, settings)
    with store.lock(operation="state repair"):
        try:
            store.read()
        except StateError as error:
            found = max(_whole(store), key=lambda state: state.serial, default=None)
            if found is None:
                raise StateError(
                    f"{error.message}; and no version of it is whole",
                    hint="bring it back from a copy with `deployer state push`",
                ) from error
            store.mend(found)
            return found
        return None


def versions(stack_file: Path, settings: Settings) -> tuple[Version, ...]:
    """Every kept version of a state, oldest first, the stored one last."""
    store = store_of(stack_file, settings)
    found = [_version(store, serial) for serial in store.serials()]
    stored = store.read()
    if stored is not None:
        found.append(Version(stored.serial, stored.released, whole=True))
    return tuple(found)


def _version(store: StateStore, serial: int) -> Version:
    try:
        return Version(serial, store.kept(serial).released, whole=True)
    except StateError:
        return Version(serial, 0, whole=False)


def _no_successor(stored: State, new: State) -> str:
    if stored.lineage != new.lineage:
        return "the file is of another state: their lineages differ"
    if new.serial < stored.serial:
        return f"the file is older: serial {new.serial}, stored is {stored.serial}"
    if new.serial == stored.serial:
        return f"both are at serial {new.serial}, and say different things"
    return ""


def _refuse_target(lies: State, state: State, there: StateStore) -> None:
    if lies.lineage == state.lineage and lies.serial <= state.serial:
        return
    raise StateError(
        f"`{there.place}` already contains another state (serial {lies.serial})",
        hint="migrate to an empty place",
    )


def _copy(state: State, there: StateStore) -> None:
    lies = there.read()
    if lies is None or lies.serial < state.serial:
        there.write(state, expect=0 if lies is None else lies.serial)


def _whole(store: StateStore) -> Iterator[State]:
    """Every whole version that is left: kept, or put aside by a run that failed.

    What was put aside counts where it is this user's, and goes on from what is kept:
    anybody may lay a file among temporary ones.
    """
    kept = [*_kept(store)]
    yield from kept
    lineages = {state.lineage for state in kept}
    for file in rescued(store.stack, None):
        try:
            found = from_json(read_regular(file), str(file))
        except (OSError, DeployerError):
            continue
        if found.stack == store.stack and found.lineage in lineages:
            yield found


def _kept(store: StateStore) -> Iterator[State]:
    """The kept versions that can be read."""
    for serial in store.serials():
        with suppress(StateError):
            yield store.kept(serial)


def running(pid: int | None, url: str) -> tuple[Launch, Started]:
    """Return the launch of a llama-server that runs, by its pid or where it listens.

    Raises EngineError for one that cannot be adopted, with the reason.
    """
    found = started(_listening(url) if pid is None else pid)
    words = [Word(it, f"pid {found.pid}") for it in found.argv]
    decides = (
        *DECIDING,
        "CUDA_VISIBLE_DEVICES",
        "NVIDIA_VISIBLE",
        "LLAMA_",
        "HF_TOKEN",
    )
    variables = {
        name: Word(text, f"of pid {found.pid}")
        for name, text in found.variables.items()
        if name.startswith(decides)
    }
    launch = Launch("", words, variables, found.folder)
    ends = adopted(words, variables, catalogue(None)).fields
    host = str(ends.get("local.host", Value("127.0.0.1", "")).value)
    port = int(str(ends.get("local.port", Value(8080, "")).value))
    _refuse_port(found, port)
    if found.unit:
        launch.notes.append(
            f"pid {found.pid} is of systemd's `{found.unit}`: where that unit starts"
            " it, it does so again when deployer replaces it; disable the unit before"
            " the next release"
        )
    if reason := ports.refused(host, port):
        why = "the running server does not share its port; leave out after a release"
        launch.more["rollout.strategy"] = Value("replace", why)
        launch.notes.append(
            f"the next release cannot start beside it ({reason}): nothing answers from"
            " its end until the new one is healthy; after that releases hand over"
        )
    return launch, found


def _refuse_port(found: Started, port: int) -> None:
    """Raise EngineError unless the process alone listens there."""
    if not ports.listens(found.pid, port):
        raise EngineError(
            f"pid {found.pid} does not listen on port {port}",
            hint="it may still be starting; `ss -ltnp` shows what it listens on",
        )
    others = [it for it in ports.listeners(port) if it.pid != found.pid]
    if others:
        raise EngineError(
            f"port {port} is not pid {found.pid}'s alone: {ports.in_use(port, others)}",
            hint="end one of them: clients reach either",
        )


def _listening(url: str) -> int:
    """The pid of the server at an address of this machine."""
    place = urlsplit(url if "//" in url else f"//{url}")
    try:
        port = place.port or 80
    except ValueError:
        raise UsageError(
            f"`{shown(url)}` is no address", hint="http://HOST:PORT"
        ) from None
    host = place.hostname or ""
    if not is_loopback(host) and ports.refused(host, 0):
        raise UsageError(
            f"`{shown(host or url)}` is not an address of this machine",
            hint="run `deployer adopt` where the server runs",
        )
    found = {it.pid for it in ports.listeners(port)}
    match [*found]:
        case [int(pid)]:
            return pid
        case []:
            raise EngineError(f"nothing listens on port {port} of this machine")
        case _:
            raise EngineError(
                ports.in_use(port, ports.listeners(port)),
                hint="name one of them with `--pid`, as its user",
            )


def adopt_process(made: Adoption, found: Started, settings: Settings, say: Say) -> None:
    """Write the state in which the process is the live release of its stack.

    Build and weights are put into the store, and pinned by their content.  What the
    stack does not say of the process stays in its record, so that a plan shows it.
    Raises UsageError where the stack has a state, and EngineError where the process
    does not answer.
    """
    prepared, facts = prepare(made.path, settings, Options(), say)
    with locked(made.path, prepared.name, settings, say, operation="adopt"):
        store = settings.states(made.path, prepared.name)
        if store.read() is not None:
            raise UsageError(
                f"stack `{prepared.name}` has a state already",
                hint="give another `--out`, or `deployer destroy` it first",
            )
        if facts is not None:
            lock_file.write(lock_file.lock_path(made.path), facts, prepared.name)
        records = _records(made, found, prepared, settings, say)
        state = State(
            prepared.name,
            prepared.engine,
            lineage=os.urandom(16).hex(),
            serial=1,
            live=records,
            releases=(Release(1, utc_now(), "adopt", records),),
            released=1,
            file=made.path.name,
        )
        store.write(placed(state, settings), expect=0)
        gc_roots.register(settings, settings.state_place(made.path), prepared.name)
    if said := _of_key(found, made, settings):
        say(Talk(prepared.name, said))


def refuse_unlike(made: Adoption, found: Started) -> None:
    """Raise unless the stack is valid, and its files are as the process read them."""
    if made.problems:
        raise StackError(made.problems)
    named = named_in(made.values)
    refuse_changed(found, [made.path.parent / it.name for it in named])


def _of_key(found: Started, made: Adoption, settings: Settings) -> str:
    """Return what to do where the key of the process is not the one known here."""
    words = [*found.argv, ""]
    after = (words[n + 1] for n, it in enumerate(words[:-1]) if it == "--api-key")
    given = ",".join(filter(None, (*after, found.variables.get(DEFAULT_KEY))))
    if not given:
        return ""
    known = settings.keys(made.path.parent.absolute()).get(DEFAULT_KEY)
    if known is not None and known in given.split(","):
        return ""
    where = made.path.with_name(".env")
    return f"`{DEFAULT_KEY}` is not the key of pid {found.pid}: put that into `{where}`"


def _records(
    made: Adoption, found: Started, prepared: Prepared, settings: Settings, say: Say
) -> dict[str, Record]:
    """The records of the release, once its artefacts are made and it answers."""
    engine = settings.engine(prepared.engine, made.path)
    nodes = prepared.graph.values()
    records = {
        node.address: record_of(node, engine.stage(node, {}, say))
        for node in nodes
        if node.kind is not Kind.SERVER
    }
    (node,) = (it for it in nodes if it.kind is Kind.SERVER)
    server = record_of(_as_it_runs(node, made), {})
    needs = {it.role: it.outputs for it in records.values()}
    folder = _run_folder(server, found, needs, settings.place(made.path))
    seen = engine.observe(server)
    if not (seen.running and seen.healthy):
        shutil.rmtree(folder, ignore_errors=True)
        raise EngineError(
            f"pid {found.pid} is not taken over: {seen.detail}",
            hint="a server is adopted once it answers `/health`",
        )
    outputs: Flat = {
        "url": engine.endpoint(server, candidate=False).url,
        "log": str(folder / "server.log"),
    }
    return {**records, server.address: replace(server, outputs=outputs)}


def _as_it_runs(node: Node, made: Adoption) -> Node:
    """The server with what the stack does not say of it: another one, with reasons."""
    options = (it.what.lstrip("-") for it in made.left if it.what.startswith("-"))
    more: Flat = {f"{FLAGS}{name}": "as it was started" for name in options}
    if not more:
        return node
    key = key_of(node.kind, 1, {"stack": node.key, **more}, node.needs)
    return replace(node, key=key, fields={**node.fields, **more})


def _run_folder(
    server: Record, found: Started, needs: Mapping[str, Flat], place: Place
) -> Path:
    """Write down which process the server is, where the engine looks for it."""
    from deployer.engines.local.supervise.process import Running, write_record  # noqa: PLC0415 - as above
    from deployer.engines.local.supervise.survivors import note  # noqa: PLC0415 - as above

    folder = run_folder(server, place)
    note(folder, server, needs)
    log = folder / "server.log"
    where = found.log or "where it was started"
    log.write_text(f"deployer: pid {found.pid} was adopted; its log is {where}\n")
    port = int(str(server.fields["local.port"]))
    process = Running(found.pid, identity_of(found.pid), port, str(log))
    write_record(folder, process, f"{server.address}@{server.key}")
    return folder
