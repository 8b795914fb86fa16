"""What is resident on this machine: the processes of a stack, and their memory."""

import os
from pathlib import Path

import psutil

from deployer.engines.local.supervise.keepers import MARKER
from deployer.engines.local.supervise.process import (
    RUN_DIR,
    Running,
    find,
    is_alive,
    read_record,
)


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
