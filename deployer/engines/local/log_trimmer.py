"""Keep the log of a server within its limit, also as long as nobody looks.

A program of its own, too (``log_trimmer.py PID LOG KEEP LIMIT``), that ends with the
server: it has to outlive deployer, and so imports the standard library alone.  The
server writes its log itself, with O_APPEND, so that it serves on where this process is
killed, and a snapshot contains an ordinary file.
"""

import fcntl
import os
import select
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

KEEP: Final = 5
"""Earlier logs that stay."""
LIMIT: Final = 32 * 1024 * 1024
"""Bytes of one log that stay."""

_LOOK_MILLISECONDS: Final = 1000
_PIECE: Final = 1024 * 1024


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
