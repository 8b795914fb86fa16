"""Ctrl-C while nothing was begun, and when all is done: an end without a traceback.

Imported first and without the names around `_signal`, which take longer to import
than all that is done here: until `end_at_once` a Ctrl-C ends in Python's traceback.
"""

import _signal as signal  # type: ignore[import-not-found]
import os
import sys

_CANCELLED = 8
"""As `deployer.errors.CancelledError`, which is not imported yet."""


def end_at_once() -> None:
    """Exit on Ctrl-C: only imports run, so there is nothing to bring to an end.

    A process that was started to ignore it (`nohup`, `&`) goes on ignoring it.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_from_now() -> None:
    """Raise KeyboardInterrupt on Ctrl-C, and lose none."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = _again


def ignore() -> None:
    """Let Ctrl-C change nothing any more: the outcome is decided."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end(number: int, frame: object) -> None:
    del number, frame
    os.write(2, b"cancelled\n")
    os._exit(_CANCELLED)


def _again(unraisable: "sys.UnraisableHookArgs") -> None:
    """Raise a Ctrl-C again that came in a callback, where Python only prints it."""
    if unraisable.exc_type is KeyboardInterrupt:
        signal.raise_signal(signal.SIGINT)
    else:
        sys.__unraisablehook__(unraisable)
