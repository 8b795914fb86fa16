"""Keep the clients of a port away from a server that is not promoted yet.

Where a live server listens, it takes the clients, and a candidate only the gates.
Where none does (a first release, `start`, ``rollout.strategy: replace``), a guard
stands in for it: a small process that listens first and answers 503.  It outlives a
deployer that is killed, so a candidate that was left behind gets no client either.

A guard works where connections can be steered, see `deployer.engines.local.reuseport`;
elsewhere clients reach a server as soon as it listens, and `apply` reports that.
"""

import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from deployer.engines.local import reuseport
from deployer.engines.local.ports import listeners
from deployer.engines.local.supervise.find import identity_of
from deployer.engines.local.supervise.process import (
    Running,
    is_alive,
    read_record,
    stop,
    write_record,
)
from deployer.errors import EngineError

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


def close(run_dir: Path, host: str, port: int) -> None:
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


def open_(run_dir: Path, host: str, port: int) -> None:
    """Give the clients to the server, and end the guard; none is fine."""
    if guard_of(run_dir) is None:
        return
    # The guard listened first, so the server is the second of the group.
    reuseport.steer(host, port, clients=1, gates=1)
    end(run_dir)


def end(run_dir: Path) -> None:
    """End the guard, whoever gets the clients then; none is fine."""
    if (found := guard_of(run_dir)) is not None:
        stop(found, grace=_GRACE)
    with suppress(OSError):
        (run_dir / FOLDER / "process.json").unlink()


def end_unrecorded(stack_dir: Path, port: int) -> None:
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
