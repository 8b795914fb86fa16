"""The log files of a server: `server.log`, and `server.log.1` … of earlier runs.

A program of its own, too (``logs.py PID LOG KEEP LIMIT``), that keeps the log within
its limit as long as the server runs: it has to outlive deployer, and so needs the
standard library alone.  The server writes its log itself, with O_APPEND, so that it
serves on where this process is killed, and a snapshot contains an ordinary file.
"""

import fcntl
import os
import select
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, TextIO

KEEP: Final = 5
"""Earlier logs that stay."""
LIMIT: Final = 32 * 1024 * 1024
"""Bytes of one log that stay."""

_LOOK_MILLISECONDS: Final = 1000
_PIECE: Final = 1024 * 1024
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
    from deployer.system.children import growing  # noqa: PLC0415 - not in the program

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


def trim(log: Path, *, keep: int = KEEP, limit: int = LIMIT) -> bool:
    """Empty the log of a running server once it is above `limit` bytes.

    The end of it is copied to `server.log.1` first.  The server goes on at the start
    of the emptied file because it writes with O_APPEND; lines that it writes between
    the copy and the cut are lost.  Returns whether the log was cut.
    """
    with suppress(FileNotFoundError, BlockingIOError), log.open("rb") as stream:
        if os.fstat(stream.fileno()).st_size <= limit:
            return False
        # One at a time: `status` trims, too.
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shift(log, keep)
        copy_end(log, numbered(log, 1), limit)
        os.truncate(log, 0)
        return True
    return False


def numbered(log: Path, number: int) -> Path:
    """Return the path of an earlier log."""
    return log.with_name(f"{log.name}.{number}")


def shift(log: Path, keep: int) -> None:
    """Make room for `server.log.1`; the oldest of `keep` goes."""
    for number in range(keep - 1, 0, -1):
        if numbered(log, number).exists():
            numbered(log, number).replace(numbered(log, number + 1))


def copy_end(log: Path, target: Path, limit: int) -> None:
    """Copy the last `limit` bytes of a log."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with log.open("rb") as source, os.fdopen(descriptor, "wb") as copy:
        source.seek(max(0, log.stat().st_size - limit))
        left = limit  # a server that writes faster than this must not be chased
        while left > 0 and (piece := source.read(min(left, _PIECE))):
            copy.write(piece)
            left -= len(piece)


def main() -> int:
    """Look at the log once a second until the server has ended."""
    log, keep, limit = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    try:
        server = os.pidfd_open(int(sys.argv[1]))
    except (AttributeError, OSError):  # another system, or it ended already
        return 0
    ends = select.poll()
    ends.register(server, select.POLLIN)
    while not ends.poll(_LOOK_MILLISECONDS):
        with suppress(OSError):  # a full disk, a folder that was removed
            trim(log, keep=keep, limit=limit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
