"""A glance at a live server, for plans: one request, and few imports.

`Engine.observe` finds out more, and takes three times as long to import.

A pid is used again, and a time of day moves when the clock is set; these two do not
(man 5 proc: ``/proc/sys/kernel/random/boot_id``, field 22 of ``/proc/PID/stat``).
Where there is no such file (another system), the start time in seconds stands in.

Light on purpose: a plan looks here before it imports the engine.

The writer locks the file as long as it is needed; the kernel drops the lock when the
writer dies.  So a key file without a lock was left by a run that was killed.
"""

import fcntl
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deployer.engines.local.ports import accepted_by, family_of
from deployer.engines.place import Look, Place
from deployer.errors import EngineError
from deployer.planning.state import Record
from deployer.system.files import contained

_STARTTIME: Final = 22 - 3
"""Index of the start tick among the fields behind the name of the program."""
_CLOCK_SLACK: Final = 2.0
"""Seconds by which a start time of a record of deployer 0.1 may differ."""


def boot_id() -> str:
    """Return which start of the machine this is; empty where the system has no id."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def identity_of(pid: int) -> str:
    """Return `<boot id>:<start tick>` of a process; empty when there is none."""
    if not (boot := boot_id()):
        return _by_clock(pid)
    try:
        # The name, in parentheses, may contain blanks and parentheses itself.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return f"{boot}:{fields[_STARTTIME].decode()}"
    except (OSError, IndexError):  # there is none, or it ended while it was read
        return ""


def is_of_this_boot(identity: str) -> bool:
    """Return whether a process with this identity began since the machine started."""
    boot, _, start = identity.rpartition(":")
    if boot or not start:
        return boot == boot_id()
    import psutil  # noqa: PLC0415 - as below

    return float(start) >= psutil.boot_time()


def from_start_time(pid: int, started: float) -> str:
    """Return the identity of a process that is known by its start time alone.

    Records of deployer 0.1 hold seconds since the epoch.  Of a process that has ended
    only the boot can be derived.
    """
    import psutil  # noqa: PLC0415 - a plan asks, and psutil takes long to import

    with suppress(psutil.Error):
        if abs(psutil.Process(pid).create_time() - started) < _CLOCK_SLACK:
            return identity_of(pid)
    if started < psutil.boot_time():
        return "earlier:"
    return f"{boot_id()}:ended" if boot_id() else f":{started}"


def _by_clock(pid: int) -> str:
    import psutil  # noqa: PLC0415 - as above

    try:
        return f":{psutil.Process(pid).create_time()}"
    except psutil.Error:
        return ""


FILES: Final = ".files"
"""Folder beside the run folders: the files of the stack, by their digests."""
KEY_LENGTH: Final = 16
"""Characters of a key in the name of a run folder."""
_MARK_LENGTH: Final = 6
"""Characters that distinguish stacks of one name in several folders."""


def stack_folder(home: Path, folder: Path, stack: str) -> Path:
    """Return the run folders' folder of a stack: names are unique in a folder only."""
    mark = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:_MARK_LENGTH]
    runs = home / "run"
    return contained(runs, runs / f"{stack}-{mark}")


def run_folder(record: Record, place: Place) -> Path:
    """Return where the log of a server lies, and what it is found again by."""
    stack = record.address.partition("/")[0]
    folder = stack_folder(place.home, place.folder, stack)
    return contained(folder, folder / record.key[:KEY_LENGTH])


def run_folders(stack_folder: Path) -> tuple[Path, ...]:
    """Return the run folders of a stack; none where it never ran."""
    try:
        found = (it for it in stack_folder.iterdir() if it.name != FILES)
        return tuple(sorted(it for it in found if it.is_dir()))
    except OSError:
        return ()


def may_live(stack_folder: Path) -> Iterator[str]:
    """Yield the names of run folders whose last process may still live."""
    for folder in run_folders(stack_folder):
        try:
            record = json.loads((folder / "process.json").read_bytes())
            os.kill(int(record["pid"]), 0)
        except PermissionError:  # alive, and of another user
            yield folder.name
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            continue
        else:
            yield folder.name


def may_live_of(stack: str, place: Place) -> Iterator[str]:
    """Yield beginnings of the keys of servers of a stack that may live here."""
    return may_live(stack_folder(place.home, place.folder, stack))


KEY_FILE: Final = "api-key"
"""File in a run directory that llama-server reads its key from."""


@contextmanager
def lent(file: Path, keys: Sequence[str]) -> Iterator[None]:
    """Keep keys in a file, a line each, while the block runs; without any is none."""
    if not keys:
        yield
        return
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_name(f"{KEY_FILE}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, "".join(f"{key}\n" for key in keys).encode())
        draft.replace(file)
        yield
    finally:
        draft.unlink(missing_ok=True)
        file.unlink(missing_ok=True)
        os.close(descriptor)


def remove_left(stack_dir: Path) -> None:
    """Remove the key files that runs which were killed left below a stack's folder."""
    for file in stack_dir.glob(f"*/{KEY_FILE}*"):
        with suppress(OSError), file.open("rb") as stream:
            # One that is empty is not locked yet, and contains no key.
            if os.fstat(stream.fileno()).st_size:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink()


_SECONDS: Final = 2.0
"""For connecting, asking and being answered, all together."""
_LONGEST: Final = 4096


def look(record: Record, place: Place) -> Look:
    """Ask a live server for its health once, within two seconds.

    An answer counts only from the very process of the release.
    """
    try:
        host, port = (record.fields[name] for name in ("local.host", "local.port"))
        pid = _living(run_folder(record, place))
    except (OSError, ValueError, KeyError, TypeError):
        return Look.GONE
    try:
        well = _is_well(str(host), int(str(port)), pid)
    except (OSError, ValueError):
        well = False
    return Look.ANSWERS if well else Look.SILENT


def _living(folder: Path) -> int:
    """The recorded process; raises OSError where it ended or its pid is another's."""
    known = json.loads((folder / "process.json").read_bytes())
    pid = int(known["pid"])
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    ended = stat.rpartition(b")")[2].split()[0] in {b"Z", b"X"}
    began = identity_of(pid)
    then = known.get("began") or from_start_time(pid, float(known["started"]))
    if ended or not began or began != then:
        raise ProcessLookupError(pid)
    return pid


def _is_well(host: str, port: int, pid: int) -> bool:
    until = time.monotonic() + _SECONDS
    # Linux takes the wildcard address as one of this machine.
    with socket.socket(family_of(host)) as connection:
        connection.settimeout(_SECONDS)
        connection.connect((host, port))
        own = connection.getsockname()[:2]
        connection.sendall(f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        said = b""
        while b"\n" not in said and len(said) < _LONGEST:
            connection.settimeout(max(0.001, until - time.monotonic()))
            if not (more := connection.recv(_LONGEST)):
                return False
            said += more
        # The server keeps this connection open, so it can be looked up.
        well = said.startswith(b"HTTP/") and said.split()[1:2] == [b"200"]
        return well and accepted_by(pid, port, own)


@dataclass(frozen=True, slots=True)
class Started:
    """A llama-server of this machine that deployer did not start."""

    pid: int
    program: Path
    argv: tuple[str, ...]
    """Without the program."""
    variables: Mapping[str, str]
    folder: Path
    """Its working directory, from where relative paths lead."""
    began: float
    """Seconds since the epoch."""
    unit: str
    """The systemd service that it is the process of; empty for none."""
    log: str
    """The file that it writes to; empty where that is none."""


_SERVER: Final = re.compile(r"llama-server([-.][\w.-]*)?")
_GONE: Final = " (deleted)"
_TICKS: Final = 0.05
"""Seconds by which two clocks of the kernel may differ."""


def started(pid: int) -> Started:
    """Read a running llama-server as it was started; raises EngineError.

    Refused are a process that is none, that is another user's or in a container, and
    one whose program is gone (proc(5): what a link in ``/proc/PID`` leads to then ends
    in ``(deleted)``).
    """
    process = Path(f"/proc/{pid}")
    try:
        owner = process.stat().st_uid
        name = process.joinpath("comm").read_text("utf-8").strip()
    except OSError:
        raise EngineError(f"there is no process {pid} on this machine") from None
    if owner != os.geteuid():
        whose = _user(owner)
        raise EngineError(
            f"pid {pid} (`{name}`) is a process of user `{whose}`",
            hint=f"run `deployer` as `{whose}`: as another user its port is not shared",
        )
    try:
        return _started(process, pid, name)
    except OSError as error:
        raise EngineError(
            f"pid {pid} (`{name}`) cannot be read: {error.strerror or error}",
            hint="it may have ended just now",
        ) from error


def _started(process: Path, pid: int, name: str) -> Started:
    mine = Path("/proc/self/ns/mnt").readlink()
    if process.joinpath("ns/mnt").readlink() != mine:
        raise EngineError(
            f"pid {pid} (`{name}`) runs in a container: its files are not those of this"
            " machine",
            hint="adopt what starts it: its compose file, manifest or `docker run`",
        )
    argv = process.joinpath("cmdline").read_bytes().decode(errors="replace")
    words = argv.removesuffix("\0").split("\0")
    program = str(process.joinpath("exe").readlink())
    if not any(_SERVER.fullmatch(Path(it).name) for it in (program, words[0])):
        gone = program.removesuffix(_GONE)
        if gone == program or not _SERVER.fullmatch(Path(gone).name):
            raise EngineError(f"pid {pid} is `{name}`, and no llama-server")
    if program.endswith(_GONE):
        raise EngineError(
            f"the program of pid {pid} was deleted or replaced since it was started:"
            f" `{program.removesuffix(_GONE)}`",
            hint="bring the file back, or adopt the command line (`-- llama-server …`)",
        )
    said = process.joinpath("environ").read_bytes().decode(errors="replace")
    pairs = (it.partition("=") for it in said.split("\0") if "=" in it)
    units = re.findall(r"/([^/\n]+\.service)$", _text(process / "cgroup"), re.MULTILINE)
    out = str(process.joinpath("fd/1").readlink())
    return Started(
        pid,
        Path(program),
        tuple(words[1:]),
        {key: value for key, _, value in pairs},
        process.joinpath("cwd").readlink(),
        _since_epoch(pid),
        next((it for it in units if not it.startswith("user@")), ""),
        out if out.startswith("/") and Path(out).is_file() else "",
    )


def _since_epoch(pid: int) -> float:
    """When a process was started, to a tick: the time of boot is in whole seconds."""
    ticks = int(identity_of(pid).rpartition(":")[2] or 0)
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted + ticks / os.sysconf("SC_CLK_TCK")


def _user(uid: int) -> str:
    import pwd  # noqa: PLC0415 - only on trouble

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # of a container, or of a directory service
        return str(uid)


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8", errors="replace")
    except OSError:
        return ""


def refuse_changed(found: Started, files: Iterable[Path]) -> None:
    """Raise EngineError where a file is gone, or is newer than the process.

    What the process read, or has mapped, is then not what the file has.
    """
    mapped = _text(Path(f"/proc/{found.pid}/maps"))
    for file in files:
        real = os.path.realpath(file)
        if not os.path.exists(real) or f"{real}{_GONE}\n" in mapped:  # noqa: PTH110 - as above
            raise EngineError(
                f"`{file}` was deleted since pid {found.pid} read it",
                hint="bring the file back: the next start needs it",
            )
        if os.stat(real).st_mtime > found.began + _TICKS:  # noqa: PTH116 - as above
            raise EngineError(
                f"`{file}` was changed after pid {found.pid} was started: it serves"
                " what is no longer there",
                hint="start the server again, then adopt it",
            )
