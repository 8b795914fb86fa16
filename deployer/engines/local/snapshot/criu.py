"""CRIU: whether this machine can freeze a process to disk and bring it back, and how.

The only module that knows the program.  What a look at the machine finds is
remembered under the program, the kernel and the user it was found with, so a plan
that changes nothing runs nothing.

CRIU before 4.2 fails on current kernels: 3.17 at the vDSO, 4.1.1 at SO_PASSCRED on
TCP sockets.
"""

import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deployer.engines.registry import Abilities
from deployer.system.children import find_program, search_path, variables

if TYPE_CHECKING:
    import subprocess

VARIABLE: Final = "DEPLOYER_CRIU"
"""Names the program, where it is not the `criu` on PATH."""
RESTORE_LOG: Final = "restore.log"
"""File in the folder of a restored server that holds what CRIU says."""
OLDEST: Final = (4, 2)
OWN_PIDS: Final = ("--pid", "--fork", "--kill-child", "--mount-proc")
"""Options of `unshare`: the pids of the image are free in there, whoever has them."""
OWN_CLOCK: Final = ("--time", "--fork", "--kill-child")
"""The clocks of the image go on where they stood: else a server that sleeps when idle
would take the time that the image lay on the disk for idleness."""

_INSTALL: Final = (
    "`scripts/install-criu.sh PREFIX` installs it on Debian-like systems; then"
    f" `export {VARIABLE}=PREFIX/bin/criu`"
)
_PRIVILEGES: Final = (
    "run deployer as root (in a container: with CAP_SYS_ADMIN, CAP_SYS_PTRACE,"
    " CAP_CHECKPOINT_RESTORE and CAP_NET_ADMIN)"
)
_SECONDS: Final = 20
_CAPTURE_SECONDS: Final = 600
_ERROR_LINES: Final = 3


@dataclass(frozen=True, slots=True)
class Capability:
    """The support of this machine for snapshots."""

    works: bool
    program: str
    version: str
    why: str = ""
    """Why they do not."""
    hint: str = ""
    """The way to change that."""


def capability(environment: Mapping[str, str], home: Path) -> Capability:
    """Test once if snapshots work here; the result is kept below ``home``."""
    now = stamp(environment)
    file = home / "cache" / "criu.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(file.read_text(encoding="utf-8"))
        if known["stamp"] == now:
            return Capability(**known["found"])
    found = _found(environment)
    with suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = file.with_suffix(f".{os.getpid()}.new")
        draft.write_text(json.dumps({"stamp": now, "found": asdict(found)}), "utf-8")
        draft.replace(file)
    return found


def abilities_here(
    abilities: Abilities, environment: Mapping[str, str], home: Path
) -> Abilities:
    """Return the abilities of the local engine, as far as this machine has them."""
    found = capability(environment, home)
    return abilities._replace(snapshots=found.works, why_not=found.why, hint=found.hint)


def stamp(environment: Mapping[str, str]) -> str:
    """Return what the answer depends on: program, kernel, user."""
    program = _program(environment)
    try:
        status = Path(program).stat()
        of_program = f"{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_size}"
    except OSError:
        of_program = ""
    return f"1:{program}:{of_program}:{os.uname().release}:{os.geteuid()}"


def candidates(environment: Mapping[str, str]) -> Iterator[str]:
    """The files that decide which program it is: the first that is one."""
    if named := environment.get(VARIABLE):
        yield named
        return
    found = _program(environment)
    for folder in search_path(environment):
        yield (path := os.path.join(folder, "criu"))  # noqa: PTH118 - as `which` does
        if path == found:
            return


def dump(program: str, pid: int, images: Path) -> str:
    """Freeze a process into a folder and end it; the reason where that fails.

    Connections of clients are closed, not captured.  A process that could not be
    frozen goes on.
    """
    options = ("--tcp-close", "-v2", "-o", "dump.log")
    argv = (program, "dump", "-t", str(pid), "-D", str(images), *options)
    done = _run(argv, _CAPTURE_SECONDS)
    if done is None:
        return f"it did not end within {_CAPTURE_SECONDS} s"
    if done.returncode:
        return errors_in(images / "dump.log") or f"exit code {done.returncode}"
    _run((program, "cpuinfo", "dump", "-D", str(images)), _SECONDS)
    return ""


def fits_cpu(program: str, images: Path) -> bool:
    """Return whether this processor can do what that of the image could."""
    done = _run((program, "cpuinfo", "check", "-D", str(images)), _SECONDS)
    return done is not None and done.returncode == 0


def restoring(program: str, images: Path, folder: Path, log: str) -> tuple[str, ...]:
    """The command that brings a process back, and lasts as long as that.

    What the process wrote to the file ``log`` goes to stdout of the command.
    """
    # With a descriptor the file itself need not be there, nor be the same.
    inherit = ("--inherit-fd", f"fd[1]:{log.lstrip('/')}")
    where = ("-D", str(images), "-W", str(folder), "-o", RESTORE_LOG, "-v2")
    return (program, "restore", "--tcp-close", *where, *inherit)


def errors_in(log: Path) -> str:
    """Return what CRIU says went wrong."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    # That it may not raise its own limit of files is said in every run, and harmless.
    wrong = [line for line in lines if "Error" in line and "RLIMIT" not in line]
    plain = [re.sub(r"^.*Error \([^)]*\): ", "", line).strip() for line in wrong]
    return "; ".join(plain[:_ERROR_LINES])


def _program(environment: Mapping[str, str]) -> str:
    return environment.get(VARIABLE) or find_program("criu", environment) or ""


def _found(environment: Mapping[str, str]) -> Capability:
    program = _program(environment)
    if not sys.platform.startswith("linux"):
        return Capability(
            works=False, program=program, version="", why="CRIU needs Linux"
        )
    if not program:
        why = "CRIU is not installed"
        return Capability(works=False, program="", version="", why=why, hint=_INSTALL)
    version = _version(program)
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    why = hint = ""
    if not numbers:
        why, hint = f"`{program}` is not a CRIU that runs here", _INSTALL
    elif numbers < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        why, hint = f"CRIU {version} is too old, {wanted} is needed", _INSTALL
    elif why := _refusal(program):
        hint = _PRIVILEGES
    return Capability(not why, program, version, why, hint)


def _version(program: str) -> str:
    done = _run((program, "--version"), _SECONDS)
    found = re.search(r"Version: ([\d.]+)", done.stdout) if done is not None else None
    return found[1] if found else ""


def _refusal(program: str) -> str:
    """Return what this machine or its user lacks; empty where all is there."""
    unshare = find_program("unshare", os.environ)
    if unshare is None or find_program("setsid", os.environ) is None:
        return "`unshare` and `setsid` of util-linux are missing"
    for options in (OWN_PIDS, OWN_CLOCK):
        done = _run((unshare, *options, "true"), _SECONDS)
        if done is None or done.returncode:
            said = "it hangs" if done is None else _last_line(done.stderr)
            return f"processes cannot be set apart here: {said}"
    done = _run((program, "check"), _SECONDS)
    if done is None:
        return "`criu check` hangs"
    if done.returncode:
        return f"`criu check` says: {_last_line(done.stdout + done.stderr)}"
    return ""


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"


def _run(
    argv: Sequence[str], seconds: float
) -> "subprocess.CompletedProcess[str] | None":
    """Run to the end; None where it takes too long, an exit code where it cannot.

    A CRIU that is killed leaves helpers, stopped for ever: they end with it, and hold
    no pipe that would be read until they do.
    """
    import subprocess  # noqa: PLC0415 - who asks for the stamp alone needs none
    from tempfile import TemporaryFile  # noqa: PLC0415 - as above

    with (
        TemporaryFile("w+", encoding="utf-8", errors="replace") as out,
        TemporaryFile("w+", encoding="utf-8", errors="replace") as err,
    ):
        try:
            process = subprocess.Popen(  # noqa: S603 - no shell, and an argv of our own
                argv,
                env=variables(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,  # Ctrl-C is for us to answer
            )
        except OSError as error:
            return subprocess.CompletedProcess(argv, 127, "", error.strerror or "")
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(argv, code, out.read(), err.read())
