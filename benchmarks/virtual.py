"""Virtual time for ordinary blocking code: threads of which one runs at a time.

Who waits gives the turn away, and the clock jumps to whoever has to go on first.  The
same tasks with the same waits give the same order, whatever the machine.
"""

import heapq
import itertools
import math
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class KilledError(BaseException):
    """The process of a task is gone: nothing of it runs any more, not even clean-up."""


class VirtualTime:
    """Tasks, and a clock that passes only while all of them wait."""

    def __init__(self) -> None:
        self.now = 0.0
        self._waiting: list[tuple[float, int, threading.Semaphore]] = []
        self._numbers = itertools.count()
        self._back = threading.Semaphore(0)
        self._mine = threading.local()
        self._errors: list[BaseException] = []

    def spawn(
        self, task: Callable[[], object], *, at: float = 0.0, dies: float | None = None
    ) -> None:
        """Begin a task in ``at`` seconds; in ``dies`` it is killed where it waits."""
        end = math.inf if dies is None else self.now + dies
        turn = threading.Semaphore(0)

        def run() -> None:
            turn.acquire()
            self._mine.turn, self._mine.dies = turn, end
            try:
                task()
            except KilledError:
                pass
            except BaseException as error:  # noqa: BLE001 - told by `run`
                self._errors.append(error)
            self._back.release()

        threading.Thread(target=run, daemon=True).start()
        self._push(self.now + at, turn)

    def run(self) -> None:
        """Let everything happen; raises what a task ended in."""
        while self._waiting:
            self.now, _, turn = heapq.heappop(self._waiting)
            turn.release()
            self._back.acquire()
            if self._errors:
                raise self._errors[0]

    def clock(self) -> float:
        """Seconds since the beginning."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let that much time pass for this task; raises KilledError at its end.

        Outside of a task nobody else is there, and the clock is put forward.
        """
        end = self.now + seconds
        if not hasattr(self._mine, "turn"):
            self.now = end
            return
        dies: float = self._mine.dies
        if dies <= self.now:  # it died before: this is what cleans up after it
            raise KilledError
        self._push(min(end, dies), self._mine.turn)
        self._give_away()
        if end >= dies:
            raise KilledError

    def park(self, waiting: deque[threading.Semaphore]) -> None:
        """Wait until somebody wakes who stands in the line."""
        waiting.append(self._mine.turn)
        self._give_away()

    def wake(self, waiting: deque[threading.Semaphore]) -> None:
        """Let everybody in a line go on, now and in this order."""
        while waiting:
            self._push(self.now, waiting.popleft())

    def _push(self, at: float, turn: threading.Semaphore) -> None:
        heapq.heappush(self._waiting, (at, next(self._numbers), turn))

    def _give_away(self) -> None:
        turn: threading.Semaphore = self._mine.turn
        self._back.release()
        turn.acquire()


class _VirtualFuture(Future[_T]):
    """A future whose result is waited for in virtual time."""

    def __init__(self, time: VirtualTime) -> None:
        super().__init__()
        self.time = time
        self.line: deque[threading.Semaphore] = deque()

    def result(self, timeout: float | None = None) -> _T:
        while not self.done():
            self.time.park(self.line)
        return super().result(timeout)


class VirtualPool(Executor):
    """So many workers, in virtual time."""

    def __init__(self, time: VirtualTime, workers: int) -> None:
        self._time = time
        self._idle = workers
        self._work: deque[tuple[Callable[[], Any], _VirtualFuture[Any]]] = deque()

    def submit(
        self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Future[_T]:
        """Let a worker do it as soon as one is idle."""
        future: _VirtualFuture[_T] = _VirtualFuture(self._time)
        self._work.append((lambda: fn(*args, **kwargs), future))
        if self._idle:
            self._idle -= 1
            self._time.spawn(self._serve)
        return future

    def _serve(self) -> None:
        while self._work:
            do, future = self._work.popleft()
            try:
                future.set_result(do())
            except Exception as error:  # noqa: BLE001 - told by `result`
                future.set_exception(error)
            self._time.wake(future.line)
        self._idle += 1
