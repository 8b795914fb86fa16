"""Crashes at a chosen effect, and calls that break a contract."""

import threading
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")


class CrashError(BaseException):
    """The run ends here, as if the machine had lost its power: nothing handles it."""


class ContractError(Exception):
    """The engine was asked for something that its contract rules out."""


class Fuse:
    """Ends a run before or after its n-th effect; no effect happens after that."""

    def __init__(self, at: int = 0, *, after: bool = False) -> None:
        self._left = at
        self._after = after
        self._counting = threading.Lock()
        self.blown = False
        self.burnt = 0
        """Effects that happened."""

    def run(self, effect: Callable[[], _Result]) -> _Result:
        """Let an effect happen; raises CrashError when the time has come."""
        with self._counting:
            if self.blown:
                raise CrashError
            self._left -= 1
            last = self._left == 0
            self.blown = last
        if last and not self._after:
            raise CrashError
        result = effect()
        self.burnt += 1
        if last:
            raise CrashError
        return result
