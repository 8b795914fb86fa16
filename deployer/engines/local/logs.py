"""The log files of a server: `server.log`, and `server.log.1` … of earlier runs."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TextIO

from deployer.engines.local.log_trimmer import (
    KEEP,
    LIMIT,
    copy_end,
    numbered,
    shift,
)
from deployer.system.children import growing

_PAUSES: Final = (0.01, 0.25)
"""The first and the longest between two looks at a log; a line begins them anew."""
_TAIL_BYTES: Final = 64 * 1024
_LONGEST_LINE: Final = 300


def rotate(log: Path, *, keep: int = KEEP, limit: int = LIMIT) -> None:
    """Move the log of a server that has ended out of the way of the next one.

    `server.log` becomes `server.log.1`, that becomes `server.log.2`, up to `keep`; of
    a log above `limit` bytes the end is kept.
    """
    if not log.exists():
        return
    shift(log, keep)
    if log.stat().st_size > limit:
        copy_end(log, numbered(log, 1), limit)
        log.unlink()
    else:
        log.replace(numbered(log, 1))


def last_lines(log: Path, count: int) -> tuple[str, ...]:
    """Return the last `count` lines that hold something; none when there is no log."""
    try:
        with log.open("rb") as stream:
            stream.seek(-min(_TAIL_BYTES, log.stat().st_size), os.SEEK_END)
            text = stream.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ()
    lines = [line.rstrip()[:_LONGEST_LINE] for line in text.splitlines()]
    return tuple([line for line in lines if line][-count:])


def tail(
    log: Path,
    *,
    lines: int,
    follow: bool,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[str]:
    """Yield the last `lines` lines, and with `follow` for ever those that come.

    Goes on with the new file when the log is rotated or cut.  Raises
    `FileNotFoundError` when there is no log.
    """
    stream = log.open(encoding="utf-8", errors="replace", newline="\n")
    try:
        yield from (line.rstrip() for line in deque(stream, maxlen=lines))
        begun, pauses = "", growing(*_PAUSES)
        while follow:
            begun += stream.readline()
            if begun.endswith("\n"):
                yield begun.rstrip()
                begun, pauses = "", growing(*_PAUSES)
                continue
            if _was_replaced(log, stream):
                stream.close()
                stream = log.open(encoding="utf-8", errors="replace", newline="\n")
                continue
            pause(next(pauses))
    finally:
        stream.close()


def _was_replaced(log: Path, stream: TextIO) -> bool:
    """Return whether the name now means another file, or a shorter one."""
    try:
        now = log.stat()
    except FileNotFoundError:  # between a rotation and the next start
        return False
    return now.st_ino != os.fstat(stream.fileno()).st_ino or now.st_size < stream.tell()
