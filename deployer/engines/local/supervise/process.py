"""Server processes of this machine: start, find again, drain, stop.

A server is its own session and outlives the deployer.  It is found again by
`process.json` in its run directory, and if a crash prevented that file, by the
marker in its environment.  A pid alone is never trusted, since pids are used again:
boot and start tick must be the same, see `deployer.engines.local.supervise.find`.
"""

import json
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import psutil

from deployer.engines.local import logs
from deployer.engines.local.logs import KEEP, LIMIT, rotate
from deployer.engines.local.ports import established
from deployer.engines.local.supervise.find import from_start_time, identity_of
from deployer.errors import EngineError
from deployer.llama.known.symptoms import likely_cause
from deployer.planning.argv import TEMPLATE
from deployer.runtime.serve import with_template
from deployer.spelling import did_you_mean, one_of
from deployer.stack.fields.values import TEMPLATE_ENDING
from deployer.system.children import growing

MARKER: Final = "DEPLOYER_SERVER"
"""Variable of a server's environment, and of its keepers': `<address>@<key>`."""

OVER: Final = frozenset({psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD})
"""Where a process that ended is until its parent, or the kernel, reaps it."""

_LONGEST: Final = 30.0
_PAUSE: Final = 0.002
_END_SECONDS: Final = 10.0


def kept_by(keeper: int) -> int:
    """The pid of the server below a keeper, once it is a session of its own.

    Raises `EngineError` when the keeper ends first, or takes too long.
    """
    process = psutil.Process(keeper)
    deadline = time.monotonic() + _LONGEST
    while time.monotonic() < deadline:
        with suppress(psutil.Error, OSError):
            for below in process.children(recursive=True):
                leads = os.getsid(below.pid) == below.pid
                if leads and below.status() not in OVER:
                    return below.pid
        with suppress(psutil.TimeoutExpired):
            process.wait(timeout=_PAUSE)
            raise EngineError("the process ended before there was a server")
    end_keepers([process])
    raise EngineError(f"there was no server within {_LONGEST:.0f} s")


def keepers_of(server: int) -> list[psutil.Process]:
    """The processes above a server that were started for it alone."""
    found = []
    with suppress(psutil.Error):
        for above in psutil.Process(server).parents():
            if MARKER not in above.environ():
                break
            found.append(above)
    return found


def end_keepers(keepers: Sequence[psutil.Process]) -> None:
    """Keepers end with their server; one that does not is ended, outermost first."""
    if _all_ended(keepers):
        return
    kill_keepers(keepers)
    _all_ended(keepers)


def kill_keepers(keepers: Sequence[psutil.Process]) -> None:
    """Kill them, outermost first; what is left in their namespaces goes along."""
    for keeper in reversed(keepers):
        with suppress(psutil.NoSuchProcess):
            keeper.kill()


def _all_ended(keepers: Sequence[psutil.Process]) -> bool:
    """Return whether they are over within a while; a child of ours is reaped."""
    deadline = time.monotonic() + _END_SECONDS
    while time.monotonic() < deadline:
        if all(_is_over(keeper) for keeper in keepers):
            return True
        time.sleep(_PAUSE)
    return False


def _is_over(keeper: psutil.Process) -> bool:
    with suppress(psutil.TimeoutExpired, psutil.NoSuchProcess):
        keeper.wait(timeout=0)
        return True
    try:
        # An orphan is over though whoever it was left to has not reaped it yet.
        return keeper.status() in OVER
    except psutil.NoSuchProcess:
        return True


RUN_DIR: Final = "DEPLOYER_RUN_DIR"
"""Variable of a server's environment: its run folder."""
_PORT: Final = "DEPLOYER_PORT"

_INHERITED: Final = frozenset(
    {
        "PATH",
        "HOME",
        "LANG",
        "TMPDIR",
        "LD_LIBRARY_PATH",
        "XDG_RUNTIME_DIR",
    }
)
_INHERITED_PREFIXES: Final = ("LC_",)

_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.1
_QUIET_SECONDS: Final = 0.5
_SAY_SECONDS: Final = 2.0
_KILL_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Running:
    """A server process; `began` is what `identity.began` returns for its pid."""

    pid: int
    began: str
    port: int
    log: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A process is over; the code is negative for a signal, None when not our child."""

    exit_code: int | None


def spawn(  # noqa: PLR0913 - one more than the limit, all named at the call
    argv: Sequence[str],
    *,
    run_dir: Path,
    address: str,
    key: str,
    port: int,
    environment: Mapping[str, str],
    inherit: Mapping[str, str] = os.environ,
    wrapped: bool = False,
) -> Running:
    """Start a server and write `process.json`; does not wait until it is healthy.

    `environment` is given to the server as it is (secrets go here); of `inherit` only
    what a server needs.  With `wrapped` the program is a keeper, that brings the server
    up below itself.  Raises `EngineError` when the program cannot be started.
    """
    run_dir = run_dir.resolve()
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = run_dir / "server.log"
    rotate(log)
    marks = {
        MARKER: f"{address}@{key}",
        RUN_DIR: str(run_dir),
        _PORT: str(port),
        "XDG_CONFIG_HOME": str(_empty_directory(run_dir)),
    }
    variables = {**scrubbed(inherit), **environment, **marks}
    keeper = _start(argv, run_dir=run_dir, log=log, environment=variables)
    pid = kept_by(keeper) if wrapped else keeper
    running = Running(pid=pid, began=_identity(pid), port=port, log=str(log))
    try:
        write_record(run_dir, running, f"{address}@{key}")
    except OSError as error:
        stop(running, grace=0)
        raise EngineError(
            f"cannot write `{_record(run_dir)}`: {error.strerror or error}"
        ) from error
    _keep_short(running)
    return running


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """Keep what a server needs; what decides how it serves is in the stack."""
    return {
        name: value
        for name, value in environment.items()
        if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
    }


def find(run_dir: Path, address: str, key: str) -> Running | None:
    """Find the living server of a run directory, also one that left no record."""
    run_dir = run_dir.resolve()
    marker = f"{address}@{key}"
    recorded = read_record(run_dir, marker)
    if recorded is not None and is_alive(recorded):
        return recorded
    return next(_marked(run_dir, marker), None)


def is_alive(running: Running) -> bool:
    """Return whether this very process is there and has not ended."""
    process = _process(running)
    return process is not None and not _has_ended(process)


def wait_for_end(running: Running, seconds: float) -> Ended | None:
    """Wait up to `seconds` for the end of the process; None when it goes on.

    A child of ours is reaped.
    """
    process = _process(running)
    if process is None:
        return Ended(None)
    if not _ends_within(process, running.began, seconds):
        return None
    with suppress(psutil.TimeoutExpired):
        code = process.wait(timeout=0)
        return Ended(None if code is None else int(code))
    # Nobody may be there to reap an orphan, as in many containers; or the kernel is
    # about to, and the pid is there for another moment.
    return Ended(None)


def _ends_within(process: psutil.Process, began: str, seconds: float) -> bool:
    """Wait until it ends, reaped or not; the kernel tells, where it can."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    except (AttributeError, OSError):  # another system, or an old kernel
        return _looks_ended(process, seconds)
    try:
        ends = select.poll()
        ends.register(descriptor, select.POLLIN)
        # A pid that was used again since would be another process.
        again = identity_of(process.pid) != began
        return again or bool(ends.poll(seconds * 1000))
    finally:
        os.close(descriptor)


def _looks_ended(process: psutil.Process, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    pauses = growing(_FIRST_PAUSE, _LONGEST_PAUSE)
    while True:
        left = deadline - time.monotonic()
        with suppress(psutil.TimeoutExpired):
            process.wait(timeout=max(0.0, min(left, next(pauses))))
            return True
        if _has_ended(process):
            return True
        if left <= 0:
            return False


def drain(running: Running, *, limit: float, say: Callable[[str], None]) -> int:
    """Wait up to `limit` seconds until no client is connected; return those left.

    New connections must go elsewhere by now.  llama-server closes an idle connection
    after 5 s and a busy one after 100 requests, so clients that keep theirs open
    leave, too.  A request that runs when the server is stopped hangs until its client
    gives up, so the limit should exceed the longest answer.
    """
    now = time.monotonic()
    deadline, said, busy = now + limit, now, now
    pauses = growing(_FIRST_PAUSE, _LONGEST_PAUSE)
    while True:
        left = established(running.pid, running.port) if is_alive(running) else 0
        now = time.monotonic()
        if left:
            busy = now
        # Handshakes may be under way: one look at zero connections is not enough.
        if now - busy >= _QUIET_SECONDS or now >= deadline:
            return left
        if left and now - said >= _SAY_SECONDS:
            say(f"waiting for {left} connection{'s' if left != 1 else ''} to end")
            said = now
        if wait_for_end(running, next(pauses)) is not None:
            return 0


def stop(running: Running, *, grace: float) -> None:
    """End the process group: SIGTERM, and SIGKILL after `grace` seconds.

    Gone already is fine, and a stranger under the same pid is left alone.  Raises
    `EngineError` when the process cannot be ended.
    """
    keepers = [] if _process(running) is None else keepers_of(running.pid)
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, _KILL_SECONDS)):
        if _process(running) is not None:
            _signal(running.pid, number)
        if number is signal.SIGKILL:
            # A CRIU that traces it, and hangs since, would keep it from ending.
            kill_keepers(keepers)
        if wait_for_end(running, seconds) is not None:
            end_keepers(keepers)
            return
    raise EngineError(
        f"the server process {running.pid} does not end",
        hint=f"look at it with `ps -o pid,stat,wchan {running.pid}`: a process in"
        " state D waits for a disk or a driver",
    )


def _start(
    argv: Sequence[str], *, run_dir: Path, log: Path, environment: Mapping[str, str]
) -> int:
    _write_no_cores()
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        process = subprocess.Popen(  # noqa: S603 - no shell, and the plan's own argv
            argv,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=subprocess.STDOUT,
            env=environment,
            # ggml looks for its libraries in the working directory, too.
            cwd=run_dir,
            start_new_session=True,
        )
    except OSError as error:
        raise _not_started(argv[0], error) from error
    finally:
        os.close(descriptor)
    # The process is meant to outlive this object, which else warns that it does.
    process.returncode = 0
    return process.pid


def _write_no_cores() -> None:
    """Let no process that is started from here leave its memory behind when it dies.

    It contains the API key and prompts, and this process may contain the key.  A limit
    of 1 byte is less than any core file, and the one value that Linux heeds for a core
    that is piped to a program (core(5), fs/coredump.c); of 0 such a program gets all.
    """
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    limit = 1 if hard == resource.RLIM_INFINITY else min(1, hard)
    resource.setrlimit(resource.RLIMIT_CORE, (limit, hard))


def _keep_short(running: Running) -> None:
    """Start what keeps the log within its limit; a server does without, too."""
    words = (str(running.pid), running.log, str(KEEP), str(LIMIT))
    with suppress(OSError):
        process = subprocess.Popen(  # noqa: S603 - a program of ours
            (sys.executable, "-I", "-S", logs.__file__, *words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,
        )
        process.returncode = 0  # as above


def _identity(pid: int) -> str:
    if found := identity_of(pid):
        return found
    raise EngineError("the server ended at once")


def _not_started(program: str, error: OSError) -> EngineError:
    reason = error.strerror or str(error)
    match error:
        case FileNotFoundError() if Path(program).exists():
            reason = "its loader is missing: it was built for another system"
            hint = "build on this machine, or take binaries for this system"
        case FileNotFoundError():
            hint = "run `deployer apply` again to build it"
        case PermissionError():
            hint = "the file must be executable, and its file system not `noexec`"
        case _:
            hint = "build on this machine, or take binaries for this processor"
    return EngineError(f"cannot start `{program}`: {reason}", hint=hint)


def _empty_directory(run_dir: Path) -> Path:
    """Make a directory to read settings from: else llama.cpp/config.ini in ~/.config.

    llama-server reads that file since b10434 at the latest.
    """
    directory = run_dir / "no-config"
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory


def _record(run_dir: Path) -> Path:
    return run_dir / "process.json"


def write_record(run_dir: Path, running: Running, marker: str) -> None:
    """Write `process.json`, whole or not at all."""
    text = json.dumps({**asdict(running), "marker": marker}, indent=2, sort_keys=True)
    target = _record(run_dir)
    draft = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(target)


def read_record(run_dir: Path, marker: str | None = None) -> Running | None:
    """Read the record; one that is absent, damaged or of another marker is none.

    The environment of the process is the second source, so nothing is lost.
    """
    try:
        record = json.loads(_record(run_dir).read_text(encoding="utf-8"))
        if marker not in {None, record["marker"]}:
            return None
        pid = int(record["pid"])
        began = str(record["began"]) if "began" in record else None
        return Running(
            pid=pid,
            began=began or from_start_time(pid, float(record["started"])),
            port=int(record["port"]),
            log=str(record["log"]),
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None


def _marked(run_dir: Path, marker: str) -> Iterator[Running]:
    """Scan the environments of our own processes for the marker."""
    for process in psutil.process_iter():
        try:
            if process.uids().real != os.getuid():
                continue
            variables = process.environ()
            if variables.get(MARKER) != marker:
                continue
            if variables.get(RUN_DIR) != str(run_dir) or _has_ended(process):
                continue
            # A child of the server; or one that was restored, which has the marker of
            # its image, and is found by its keeper's.
            if keepers_of(process.pid):
                continue
            server = _kept(process)
            yield Running(
                pid=server.pid,
                began=_identity(server.pid),
                port=int(variables[_PORT]),
                log=str(run_dir / "server.log"),
            )
        except (psutil.Error, OSError, EngineError):  # it ended, or hides itself
            continue


def _kept(first: psutil.Process) -> psutil.Process:
    """The server that a first process keeps; that itself where it keeps none (yet)."""
    below = first.children(recursive=True)
    return next((it for it in below if os.getsid(it.pid) == it.pid), first)


def _process(running: Running) -> psutil.Process | None:
    if not running.began or identity_of(running.pid) != running.began:
        return None
    try:
        return psutil.Process(running.pid)
    except psutil.Error:
        return None


def _has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() in OVER
    except psutil.NoSuchProcess:
        return True


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        if os.getpgid(pid) == pid:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
    except ProcessLookupError:  # it ended since
        return
    except PermissionError as error:
        raise EngineError(
            f"the server process {pid} belongs to another user",
            hint="run `deployer` as the user that started the server",
        ) from error


_SECONDS: Final = 30
"""It answers in milliseconds; a hung loader must not hang us."""


def run_server(
    argv: tuple[str, ...],
    environment: Mapping[str, str],
    *,
    folder: Path | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run llama-server for an answer, not to serve; raises EngineError.

    ``folder`` is the working directory; for options it is that of the server.
    """
    try:
        return subprocess.run(  # noqa: S603 - no shell, and the plan's own argv
            argv,
            env={**scrubbed(os.environ), **environment},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
            start_new_session=True,  # Ctrl-C is for us to answer
        )
    except OSError as error:
        raise EngineError(
            f"`{argv[0]}` cannot be started: {error.strerror}",
            hint="it was built for another system: take a build for this one",
        ) from error
    except subprocess.TimeoutExpired:
        raise EngineError(
            f"`{argv[0]} {argv[-1]}` did not answer within {_SECONDS} s",
            hint="a driver or a network file system may hang: run it by hand",
        ) from None


def try_options(
    argv: tuple[str, ...], environment: Mapping[str, str], folder: Path
) -> None:
    """Let llama-server read its options without starting; raises EngineError.

    With ``--version`` last it parses from left to right and ends in 1 at the
    first option it does not take, on every build from b8672 to b11434.
    """
    done = run_server((*argv, "--version"), environment, folder=folder)
    if done.returncode == 0:
        return
    lines = (done.stderr + done.stdout).splitlines()
    if cause := likely_cause(lines, done.returncode):
        raise EngineError(cause.meaning, hint=cause.hint)
    wrong = [line for line in lines if "error" in line]
    said = wrong[0].strip() if wrong else f"exit code {done.returncode}"
    raise EngineError(
        f"llama-server does not take its options: {said}",
        hint="compare `server` and `server.flags` of the stack with"
        " `llama-server --help` of this build",
    )


_BUILT_IN: Final = re.compile(r"list of built-in templates:(?P<names>[^(]*)", re.DOTALL)


def known_template(argv: Sequence[str], server: Path) -> tuple[str, ...]:
    """Return the command line with a template of the build as the file that it is.

    Raises EngineError for a file that is not there, and for a name that is neither
    beside the build nor built into llama-server, with the nearest names.
    """
    from deployer.runtime.compile import TEMPLATES  # noqa: PLC0415 - rarely needed

    kept = server.parent.parent / TEMPLATES
    found = with_template(argv, kept)
    if TEMPLATE in found:
        _refuse_unknown(found[found.index(TEMPLATE) + 1], server, kept)
    elif f"{TEMPLATE}-file" in found:
        file = Path(found[found.index(f"{TEMPLATE}-file") + 1])
        if not file.is_file():
            raise EngineError(f"there is no chat template `{file}`")
    return tuple(found)


def _refuse_unknown(name: str, server: Path, kept: Path) -> None:
    """Raise EngineError unless llama-server lists the name in its help."""
    built_in = _BUILT_IN.search(run_server((str(server), "--help"), {}).stdout)
    names = re.findall(r"[\w.-]+", built_in["names"]) if built_in else []
    if name in names:
        return
    names += [file.stem for file in sorted(kept.glob(f"*{TEMPLATE_ENDING}"))]
    raise EngineError(
        f"there is no chat template `{name}` in this build",
        hint=did_you_mean(name, names) or f"there is {one_of(sorted(names))}",
    )


def notify(news: str, environment: Mapping[str, str]) -> None:
    """Tell systemd how this process is; nothing where it was not started so.

    Each line of `news` is an assignment of sd_notify(3), such as ``READY=1``.
    """
    if not (address := environment.get("NOTIFY_SOCKET")):
        return
    name = f"\0{address[1:]}" if address.startswith("@") else address
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.sendto(news.encode(), name)
