"""What is resident on this machine: the processes of a stack, and their memory."""

from pathlib import Path

import psutil

from deployer.engines.local.process import Running, is_alive, read_record


def servers_in(stack_dir: Path) -> frozenset[int]:
    """Process ids of the living servers below a stack's folder of run directories."""
    if not stack_dir.is_dir():
        return frozenset()
    found = (recorded(folder) for folder in stack_dir.iterdir())
    return frozenset(it.pid for it in found if it is not None and is_alive(it))


def memory_of(running: Running) -> int:
    """Bytes of main memory that a process holds; 0 once it is gone."""
    try:
        return int(psutil.Process(running.pid).memory_info().rss)
    except psutil.Error:
        return 0


def recorded(run_dir: Path) -> Running | None:
    """The last process of a run directory, alive or not; a damaged record is none."""
    return read_record(run_dir)
