"""Following a log file: its last lines, and those that come."""

import time
from collections.abc import Iterator
from pathlib import Path

from deployer.engines.local.logs import last_lines

_PAUSE = 0.2
"""Seconds between two looks at the file."""


def tail(log: Path, *, lines: int, follow: bool) -> Iterator[str]:
    """The last ``lines`` lines; with ``follow`` also what is written from then on.

    A file that was cut or replaced, as rotation does, is read from its start.
    """
    position = log.stat().st_size
    yield from last_lines(log, lines)
    while follow:
        size = log.stat().st_size if log.exists() else 0
        if size < position:
            position = 0
        if size == position:
            time.sleep(_PAUSE)
            continue
        with log.open("rb") as stream:
            stream.seek(position)
            new = stream.read()
        whole = new[: new.rfind(b"\n") + 1]
        position += len(whole)
        if not whole:
            time.sleep(_PAUSE)
        yield from whole.decode("utf-8", errors="replace").splitlines()
