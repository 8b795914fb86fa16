"""Living servers of a stack, found by their run folders and by their environment.

What a server was started as is noted in its run folder, so that it can be compared,
replaced and ended when the state that named it is lost.

Where a live server listens, it takes the clients, and a candidate only the gates.
Where none does (a first release, `start`, ``rollout.strategy: replace``), a guard
stands in for it: a small process that listens first and answers 503.  It outlives a
deployer that is killed, so a candidate that was left behind gets no client either.

A guard works where connections can be steered, see `deployer.engines.local.reuseport`;
elsewhere clients reach a server as soon as it listens, and `apply` reports that.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from deployer.engines.local import ports, reuseport
from deployer.engines.local.ports import listeners
from deployer.engines.local.reuseport import reached
from deployer.engines.local.supervise.find import KEY_LENGTH, identity_of, run_folders
from deployer.engines.local.supervise.process import (
    MARKER,
    RUN_DIR,
    Running,
    find,
    is_alive,
    read_record,
    stop,
    write_record,
)
from deployer.errors import EngineError, UsageError
from deployer.planning.plan import (
    EVERY_CARD,
    MEMORY,
    RunningServer,
    crowded,
    share_of,
)
from deployer.planning.resources import Kind
from deployer.planning.state import Record
from deployer.stack.fields.values import Flat, JsonValue
from deployer.system.files import contained

FOLDER: Final = "guard"
"""Folder in a run directory; it contains the guard's `process.json`."""
_RUN_DIR: Final = "DEPLOYER_GUARDED_RUN_DIR"
"""Tells of a guard without a record whose it is."""
_BACKLOG: Final = 128
_GRACE: Final = 5.0
_ALONE_SECONDS: Final = 30
"""Longer than llama-server takes until it listens, which is before it loads."""
_PROGRAM: Final = Path(__file__).with_name("guard_process.py")


def guard_of(run_dir: Path) -> Running | None:
    """Return the living guard of a server's run directory."""
    found = read_record(run_dir / FOLDER)
    return found if found is not None and is_alive(found) else None


def guards_in(stack_dir: Path) -> frozenset[int]:
    """Return process ids of the living guards below a stack's folder."""
    if not stack_dir.is_dir():
        return frozenset()
    found = (guard_of(folder) for folder in stack_dir.iterdir())
    return frozenset(it.pid for it in found if it is not None)


def close_port(run_dir: Path, host: str, port: int) -> None:
    """Let a guard take the clients of a port where nothing listens.

    Raises EngineError where it cannot listen.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            listener.setsockopt(socket.SOL_SOCKET, option, 1)
        try:
            listener.bind((host, port))
            listener.listen(_BACKLOG)
            _start(run_dir, listener, port)
        except OSError as error:
            raise EngineError(
                f"cannot keep clients of {host}:{port} away: {error.strerror or error}"
            ) from error


def open_port(run_dir: Path, host: str, port: int) -> None:
    """Give the clients to the server, and end the guard; none is fine."""
    if guard_of(run_dir) is None:
        return
    # The guard listened first, so the server is the second of the group.
    reuseport.steer(host, port, clients=1, gates=1)
    end_guard(run_dir)


def end_guard(run_dir: Path) -> None:
    """End the guard, whoever gets the clients then; none is fine."""
    if (found := guard_of(run_dir)) is not None:
        stop(found, grace=_GRACE)
    with suppress(OSError):
        (run_dir / FOLDER / "process.json").unlink()


def end_unrecorded_guards(stack_dir: Path, port: int) -> None:
    """End the guards of a port whose deployer was killed before it recorded them."""
    below = f"{stack_dir.resolve()}{os.sep}"
    known = guards_in(stack_dir)
    for pid in {it.pid for it in listeners(port) if it.pid is not None} - known:
        with suppress(psutil.Error, OSError):
            guarded = psutil.Process(pid).environ().get(_RUN_DIR, "")
            if guarded.startswith(below):
                stop(Running(pid, identity_of(pid), port, ""), grace=_GRACE)


def _start(run_dir: Path, listener: socket.socket, port: int) -> None:
    folder = run_dir / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = listener.fileno()
    words = (str(descriptor), str(_ALONE_SECONDS), str(os.getpid()))
    process = subprocess.Popen(  # noqa: S603 - a program of ours
        (sys.executable, "-I", "-S", str(_PROGRAM), *words),
        pass_fds=(descriptor,),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={_RUN_DIR: str(run_dir.resolve())},
        cwd="/",
        start_new_session=True,
    )
    process.returncode = 0  # it may outlive this object, which else warns that it does
    began = identity_of(process.pid)
    write_record(folder, Running(process.pid, began, port, ""), FOLDER)


def servers_in(stack_dir: Path) -> frozenset[int]:
    """Process ids of the living servers below a stack's folder of run directories."""
    if not stack_dir.is_dir():
        return frozenset()
    found = (recorded(folder) for folder in stack_dir.iterdir())
    return frozenset(it.pid for it in found if it is not None and is_alive(it))


def marked_pids(stack_dir: Path) -> frozenset[int]:
    """Process ids of the servers of a stack that their environment gives away."""
    below = f"{stack_dir.resolve()}{os.sep}"
    markers: set[tuple[str, str]] = set()
    for process in psutil.process_iter():
        try:
            if process.uids().real != os.getuid():
                continue
            variables = process.environ()
        except (psutil.Error, OSError):  # it ended, or hides its environment
            continue
        if variables.get(RUN_DIR, "").startswith(below) and MARKER in variables:
            markers.add((variables[RUN_DIR], variables[MARKER]))
    found = (find(Path(folder), *marker.rsplit("@", 1)) for folder, marker in markers)
    return frozenset(running.pid for running in found if running is not None)


def memory_of(running: Running) -> int:
    """Bytes of main memory that a process holds; 0 once it is gone."""
    try:
        return int(psutil.Process(running.pid).memory_info().rss)
    except psutil.Error:
        return 0


def recorded(run_dir: Path) -> Running | None:
    """The last process of a run directory, alive or not; a damaged record is none."""
    return read_record(run_dir)


_NOTE: Final = "release.json"
_ENDS: Final = {"local.host", "local.port"}
_DRAIN: Final = "30s"
"""The default of `local.drain`, for a server that left no note."""


def note(run_dir: Path, record: Record, needs: Mapping[str, Flat]) -> None:
    """Write down what a server is, and what it is made from, before it starts."""
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = {
        "address": record.address,
        "key": record.key,
        "fields": dict(record.fields),
        "needs": dict(record.needs),
        "spec": dict(record.spec),
        "made_from": {kind: dict(outputs) for kind, outputs in needs.items()},
    }
    draft = run_dir / f"{_NOTE}.{os.getpid()}.tmp"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(content, indent=2, sort_keys=True) + "\n")
    draft.replace(run_dir / _NOTE)


def made_from(run_dir: Path) -> Mapping[str, Flat]:
    """Return what the server of a run folder was made from, as far as it was noted."""
    found = _noted(run_dir).get("made_from")
    if not isinstance(found, dict):
        return {}
    return {kind: it for kind, it in found.items() if isinstance(it, dict)}


def survivors(
    folder: Path, stack: str, known: Collection[str], *, thoroughly: bool
) -> tuple[RunningServer, ...]:
    """Return the living servers below a stack's folder of run folders.

    Where one has a key that is not `known`, each is marked whether clients reach it.
    With `thoroughly` the environments of all processes are searched, too.
    """
    found = {it.pid: (run_dir, it) for run_dir, it in _recorded(folder)}
    if thoroughly:
        found |= {it.pid: (run_dir, it) for run_dir, it in _marked(folder)}
    servers = [_server(run_dir, it, stack) for run_dir, it in found.values()]
    if all(server.record.key in known for server in servers):
        return tuple(servers)
    return tuple(_with_clients(servers))


def sharing(record: Record, own: Path) -> Iterator[str]:
    """Yield notes about GPUs that living servers of other stacks use, too.

    ``own`` is the folder of run folders of the stack.  Raises UsageError for a GPU
    that is too small for all of them.
    """
    mine = share_of(record.fields, record.spec.get(MEMORY))
    shares = {record.address: mine}
    for folder in sorted(own.parent.glob("*")) if mine.cards else ():
        for run_dir, running in _recorded(folder) if folder != own else ():
            other = _record(run_dir, running, folder.name)
            share = share_of(other.fields, other.spec.get(MEMORY))
            if {EVERY_CARD, *mine.cards} & {*share.cards} or EVERY_CARD in mine.cards:
                shares[f"{other.address} (pid {running.pid})"] = share
    for said, hint in crowded(shares):
        if hint:
            raise UsageError(said, hint=hint)
        yield said


def captives(folder: Path) -> Iterator[Running]:
    """Yield the living servers of a stack that were started to be captured."""
    found = {it.pid: (run_dir, it) for run_dir, it in _recorded(folder)}
    found |= {it.pid: (run_dir, it) for run_dir, it in _marked(folder)}
    for run_dir, running in found.values():
        if _marker(run_dir, running)[0].endswith(f"/{Kind.SNAPSHOT}"):
            yield running


def names_in(folder: Path) -> Mapping[int, str]:
    """Return the living servers of a stack by pid, as the steps of a plan name them."""
    named = {it.pid: _marker(run_dir, it) for run_dir, it in _recorded(folder)}
    return {pid: f"{address} {key[:8]}" for pid, (address, key) in named.items()}


def _recorded(folder: Path) -> Iterator[tuple[Path, Running]]:
    for run_dir in run_folders(folder):
        running = recorded(run_dir)
        if running is not None and is_alive(running):
            yield run_dir, running


def _marked(folder: Path) -> Iterator[tuple[Path, Running]]:
    """Servers that left no record: their environment names their run folder."""
    below = f"{folder.resolve()}{os.sep}"
    markers: set[tuple[str, str]] = set()
    for process in psutil.process_iter():
        try:
            if process.uids().real != os.getuid():
                continue
            variables = process.environ()
        except (psutil.Error, OSError):  # it ended, or hides its environment
            continue
        if variables.get(RUN_DIR, "").startswith(below) and MARKER in variables:
            markers.add((variables[RUN_DIR], variables[MARKER]))
    for run_dir, marker in sorted(markers):
        address, _, key = marker.rpartition("@")
        if (running := find(Path(run_dir), address, key)) is not None:
            yield Path(run_dir), running


def _server(run_dir: Path, running: Running, stack: str) -> RunningServer:
    return RunningServer(
        record=_record(run_dir, running, stack),
        pid=running.pid,
        started=float(running.began.rpartition(":")[2]),
        port=running.port,
    )


def _record(run_dir: Path, running: Running, stack: str) -> Record:
    """As noted; else what its process tells, which is enough to end it."""
    noted = _noted(run_dir)
    address, key = _marker(run_dir, running)
    match noted:
        case {
            "address": str(one),
            "key": str(two),
            "fields": dict(fields),
            "needs": dict(needs),
            "spec": dict(spec),
        } if (one, two) == (address, key) and fields.keys() >= _ENDS:
            words = {kind: str(it) for kind, it in needs.items()}
            return Record(address, Kind.SERVER, key, fields, words, spec)
        case _:
            pass
    listening = (it.address for it in ports.listeners(running.port))
    ends: Flat = {
        "local.host": next(listening, "127.0.0.1"),
        "local.port": running.port,
        "local.drain": _DRAIN,
    }
    return Record(address or f"{stack}/{Kind.SERVER}", Kind.SERVER, key, ends, {}, {})


def _marker(run_dir: Path, running: Running) -> tuple[str, str]:
    """Address and key of the server, from its record or its environment."""
    try:
        marker = str(json.loads((run_dir / "process.json").read_bytes())["marker"])
    except (OSError, ValueError, KeyError, TypeError):
        try:
            marker = psutil.Process(running.pid).environ().get(MARKER, "")
        except (psutil.Error, OSError):
            marker = ""
    address, _, key = marker.rpartition("@")
    return address, key or run_dir.name


def _noted(run_dir: Path) -> dict[str, JsonValue]:
    try:
        found = json.loads((run_dir / _NOTE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _with_clients(servers: list[RunningServer]) -> Iterator[RunningServer]:
    """Each server, asked once a port who gets its clients."""
    pids = {it.pid for it in servers}
    doors = {(str(it.record.fields["local.host"]), it.port) for it in servers}
    serving = {pid for host, port in doors for pid in reached(host, port, pids)}
    for it in servers:
        yield RunningServer(it.record, it.pid, it.started, it.port, it.pid in serving)


def holders(home: Path) -> Mapping[Path, int]:
    """Return paths below ``home`` that processes hold, each with one such process.

    A process holds its program, what it has mapped or open, its working directory, and
    the files that its command line names: llama-server reads a model without `mmap`
    once, and needs it to be there when it is started again.  This process does not
    count, and of the processes of other users only what the system shows.
    """
    prefixes = {f"{path}{os.sep}" for path in (home.absolute(), home.resolve())}
    found: dict[Path, int] = {}
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        for text in _texts(process):
            for prefix in prefixes:
                if (begin := text.find(prefix)) >= 0:
                    below = text[begin + len(prefix) :]
                    found.setdefault(home / below, process.pid)
    return found


def holder_of(folder: Path, held: Mapping[Path, int]) -> int | None:
    """Return a process that holds a file of a folder, or the folder itself."""
    return next(
        (pid for path, pid in held.items() if path.is_relative_to(folder)), None
    )


def _texts(process: psutil.Process) -> Iterator[str]:
    with suppress(psutil.Error):
        yield from process.cmdline()
    kernel = Path(f"/proc/{process.pid}")
    if kernel.is_dir():
        yield from _links(kernel)
        with suppress(OSError):
            maps = (kernel / "maps").read_text(encoding="utf-8", errors="replace")
            # address, permissions, offset, device, inode, path
            yield from (line.split(maxsplit=5)[-1] for line in maps.splitlines())
        return
    for ask in (process.exe, process.cwd):
        with suppress(psutil.Error):
            yield ask()
    with suppress(psutil.Error):
        yield from (file.path for file in process.open_files())


def _links(kernel: Path) -> Iterator[str]:
    """Where program, folders and open files of a process lead to."""
    places = [kernel / name for name in ("exe", "cwd", "root")]
    with suppress(OSError):
        places += (kernel / "fd").iterdir()
    for place in places:
        with suppress(OSError):
            yield str(place.readlink())


def unused_runs(
    home: Path, needed: Collection[str], held: Mapping[Path, int]
) -> tuple[Path, ...]:
    """Return the run folders of all stacks that no key of a state stands for."""
    names = {key[:KEY_LENGTH] for key in needed}
    found = (run for stack in run_folders(home / "run") for run in run_folders(stack))
    return tuple(
        run for run in found if run.name not in names and not _lives(run, held)
    )


def ended_runs(stack_folder: Path, held: Mapping[Path, int]) -> Iterator[Path]:
    """Yield the run folders of a stack that no process lives in."""
    yield from (run for run in run_folders(stack_folder) if not _lives(run, held))


def remove_runs(runs: Iterable[Path]) -> None:
    """Remove run folders with their logs, and the folder of a stack with the last."""
    for run in runs:
        shutil.rmtree(contained(run.parents[1], run), ignore_errors=True)
        with suppress(OSError):  # another server of the stack has its folder there
            run.parent.rmdir()


def _lives(run: Path, held: Mapping[Path, int]) -> bool:
    """Tell if a process is recorded there, has a file open there, or stands for it."""
    running = recorded(run)
    if running is not None and is_alive(running):
        return True
    return guard_of(run) is not None or holder_of(run, held) is not None
