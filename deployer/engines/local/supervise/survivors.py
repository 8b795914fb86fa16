"""Living servers of a stack, found by their run folders and by their environment.

What a server was started as is noted in its run folder, so that it can be compared,
replaced and ended when the state that named it is lost.
"""

import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from deployer.engines.local import ports
from deployer.engines.local.reuseport import reached
from deployer.engines.local.supervise.find import KEY_LENGTH, run_folders
from deployer.engines.local.supervise.guard import guard_of
from deployer.engines.local.supervise.process import (
    MARKER,
    RUN_DIR,
    Running,
    find,
    is_alive,
    read_record,
)
from deployer.planning.plan import RunningServer
from deployer.planning.resources import Kind
from deployer.planning.state import Record
from deployer.stack.fields.values import Flat, JsonValue
from deployer.system.files import contained


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
    """Whether a process is recorded there, holds a file there, or stands for it."""
    running = recorded(run)
    if running is not None and is_alive(running):
        return True
    return guard_of(run) is not None or holder_of(run, held) is not None
