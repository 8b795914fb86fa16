"""Many stacks, read ahead by helpers: whoever asks for one next finds it kept.

A helper is a fork that answers nothing.  It reads stacks from the end of the list and
keeps what they led to, as every plan does (`app/prepared.py`), while the run itself
goes on from the front as if it were alone.  So order, messages and exit code are those
of a run without helpers, and one that dies costs its own time only.
"""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from deployer.app.planning import Options, prepare
from deployer.app.prepared import Cache
from deployer.app.settings import Settings
from deployer.core.progress import Progress
from deployer.cores import cores

FEWEST = 80
"""Stacks from which on helpers pay; docs/performance.md has the figures."""
_MOST_HELPERS = 7
_LOOKED_AT = 8
"""Stacks that tell whether most were read before."""
_PATIENCE = 8
"""Stacks in a row that may fail: the run will tell of them, a helper does not."""
_POLITE = 10
"""Niceness of a helper: the run itself comes first."""
_TASKS = Path("/proc/self/task")


@contextmanager
def helped(
    files: Sequence[Path], settings: Settings, options: Options
) -> Iterator[None]:
    """Have helpers read stacks while the block plans them one after the other."""
    count = _helpers(files, settings, options)
    helpers = [_fork(files[::-1][i::count], settings, options) for i in range(count)]
    try:
        yield
    finally:
        for helper in helpers:
            os.kill(helper, signal.SIGKILL)
            os.waitpid(helper, 0)


def _helpers(files: Sequence[Path], settings: Settings, options: Options) -> int:
    """How many are worth starting: none for few stacks, or where they were read."""
    room = min(cores() - 1, _MOST_HELPERS)
    if len(files) < FEWEST or room < 1 or not _may_fork():
        return 0
    cache = Cache(settings.home / "cache" / "stacks", settings.allowed)
    seen = files[:: max(1, len(files) // _LOOKED_AT)]
    unread = sum(
        cache.find(file, options.engine, settings.machine_stamp) is None
        for file in seen
    )
    return room if 2 * unread > len(seen) else 0


def _may_fork() -> bool:
    """Whether a copy of this process would be whole: no thread is left behind."""
    if not hasattr(os, "fork") or threading.active_count() > 1:
        return False
    try:
        return len(os.listdir(_TASKS)) == 1  # noqa: PTH208 - names, no paths
    except OSError:  # no Linux: frameworks of other systems do not survive a fork
        return False


def _fork(files: Sequence[Path], settings: Settings, options: Options) -> int:
    """The pid of a helper for these stacks."""
    import deployer.app.reading  # noqa: F401, PLC0415 - once, for all helpers

    run = os.getpid()
    helper = os.fork()
    if helper == 0:
        _help(files, settings, replace(options, offline=True), run)
    return helper


def _help(
    files: Sequence[Path], settings: Settings, options: Options, run: int
) -> NoReturn:
    """Read stacks, tell nobody, and end without a trace of the run's own ending."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.nice(_POLITE)
        _be_silent()
        failed = 0
        for file in files:
            if os.getppid() != run or failed == _PATIENCE:
                break
            failed += 1
            with suppress(Exception):
                prepare(file, settings, options, _refuse)
                failed = 0
    finally:
        os._exit(0)


def _be_silent() -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nowhere, descriptor)


def _refuse(progress: Progress) -> None:
    """What takes so long that it tells how far it is, is the run's own to do."""
    raise InterruptedError(progress.name)
