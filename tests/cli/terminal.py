"""A command in a terminal of its own, typed into as people do."""

import os
import pty
import select
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.cli.project import LIMIT

CTRL_C = "\x03"
CTRL_D = "\x04"


@dataclass
class Terminal:
    """What runs in it, and everything that it printed."""

    pid: int
    side: int
    seen: str = ""
    _read: int = 0

    def until(self, text: str) -> str:
        """Wait for a text that was not waited for yet; returns what came up to it."""
        deadline = time.monotonic() + LIMIT
        while text not in self.seen[self._read :]:
            assert time.monotonic() < deadline, f"`{text}` never came: {self.seen}"
            assert self._more(), f"it ended before `{text}`: {self.seen}"
        begun = self._read
        self._read = self.seen.index(text, begun) + len(text)
        return self.seen[begun : self._read]

    def type(self, text: str) -> None:
        os.write(self.side, text.encode())

    def end(self) -> int:
        """Wait for the end; returns the exit code."""
        deadline = time.monotonic() + LIMIT
        while self._more():
            assert time.monotonic() < deadline, f"it never ended: {self.seen}"
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _more(self) -> bool:
        """Take what was printed by now; false where nothing more can come."""
        ready, _, _ = select.select([self.side], [], [], 0.1)
        if ready:
            try:
                came = os.read(self.side, 65536)
            except OSError:  # how Linux tells that nobody is left on the other side
                return False
            self.seen += came.decode(errors="replace").replace("\r\n", "\n")
            return bool(came)
        return True


@contextmanager
def terminal(
    argv: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> Iterator[Terminal]:
    """A terminal that is closed, and what runs in it killed, after the block."""
    pid, side = pty.fork()
    if not pid:
        os.chdir(folder)
        os.execvpe(argv[0], [*argv], {**environment})  # noqa: S606 - no shell
    try:
        yield Terminal(pid, side)
    finally:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        os.close(side)
