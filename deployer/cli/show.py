"""What a person sees while steps run; also where Ctrl-C is turned into an end.

On a terminal every download has a bar; elsewhere each step is a line when it begins
and a line when it ends.  The first Ctrl-C (or SIGTERM) raises CancelledError from
the next thing that is said, so that what runs is ended by whoever runs it and the
state is written; the second one stops the process at once.
"""

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self, assert_never

import click

from deployer.core.events import Ended, Event, Judged, Started, Talk
from deployer.core.progress import Progress
from deployer.core.render.words import step_text
from deployer.core.units import show_bytes, show_seconds
from deployer.core.verdict import Outcome, Verdict
from deployer.errors import CancelledError

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

WORTH_A_LINE = 10_000_000
"""Bytes from which a finished transfer is told where there are no bars."""
SIGNS = {
    Outcome.PASS: "✔",
    Outcome.FAIL: "✖",
    Outcome.INCONCLUSIVE: "?",
    Outcome.ERROR: "!",
}


class Show:
    """Shows events, and carries the user's wish to stop; a context manager."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.pause()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # as it was given

    def __call__(self, event: Event) -> None:
        """Show an event; raises CancelledError after the first Ctrl-C."""
        with self._lock:
            self._show(event)
        if self._cancelled.is_set() and isinstance(event, Started | Talk | Progress):
            raise CancelledError(
                "stopped at your request",
                hint="run `deployer apply` again to carry on from here",
            )

    def pause(self) -> None:
        """Take the bars off the terminal, before something else is printed."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            self._tasks.clear()

    def _show(self, event: Event) -> None:
        match event:
            case Started(step):
                self._line(f"  → {step_text(step)}")
            case Ended(step, seconds):
                self._line(f"  ✔ {step_text(step)}  ({show_seconds(seconds)})")
            case Talk(about, text):
                self._line(f"    {about}: {text}")
            case Judged(verdict):
                self._line(f"    {verdict_line(verdict)}")
            case Progress():
                self._advance(event)
            case _:
                assert_never(event)

    def _line(self, text: str) -> None:
        if self._bars is None:
            click.echo(text)
        else:
            self._bars.console.print(text, markup=False, highlight=False)

    def _advance(self, progress: Progress) -> None:
        if not sys.stdout.isatty():
            self._milestone(progress)
            return
        bars = self._bars or self._begin_bars()
        task = self._tasks.get(progress.name)
        if task is None:
            task = bars.add_task(progress.name, total=progress.total)
            self._tasks[progress.name] = task
        bars.update(task, completed=progress.done, total=progress.total)

    def _begin_bars(self) -> "Bars":
        from rich.progress import (  # noqa: PLC0415 - only where something is fetched
            BarColumn,
            DownloadColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.progress import Progress as Bars  # noqa: PLC0415 - as above

        self._bars = Bars(
            TextColumn("    {task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self._bars.start()
        return self._bars

    def _milestone(self, progress: Progress) -> None:
        """Without a terminal: one line when a transfer is complete."""
        total = progress.total or 0
        if total >= WORTH_A_LINE and progress.done >= total:
            name = progress.name
            if name not in self._tasks:
                click.echo(f"    {name}: {show_bytes(progress.done)}")
                self._tasks[name] = 0  # type: ignore[assignment] # a mark, no bar

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self._cancelled.is_set():
            click.echo("\nstopped at once; run `deployer apply` again", err=True)
            os._exit(CancelledError.exit_code)
        self._cancelled.set()
        click.echo("\nstopping: once more stops at once", err=True)


def verdict_line(verdict: Verdict) -> str:
    """A verdict on one line, readable without colour."""
    advisory = " (advisory)" if verdict.advisory else ""
    return (
        f"{SIGNS[verdict.outcome]} {verdict.gate:<16} {verdict.outcome.value}{advisory}"
        f": {verdict.because}"
    )
