"""What is resident on this machine: the processes of a stack, and their memory."""

import json
from pathlib import Path

import psutil

from deployer.engines.local.process import Running, is_alive


def servers_in(stack_dir: Path) -> frozenset[int]:
    """Process ids of the living servers below a stack's folder of run directories."""
    if not stack_dir.is_dir():
        return frozenset()
    found = (_recorded(folder / "process.json") for folder in stack_dir.iterdir())
    return frozenset(it.pid for it in found if it is not None and is_alive(it))


def memory_of(running: Running) -> int:
    """Bytes of main memory that a process holds; 0 once it is gone."""
    try:
        return int(psutil.Process(running.pid).memory_info().rss)
    except psutil.Error:
        return 0


def _recorded(file: Path) -> Running | None:
    """The process in a record; a damaged record is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return Running(
            pid=int(content["pid"]),
            started=float(content["started"]),
            port=int(content["port"]),
            log=str(content["log"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
