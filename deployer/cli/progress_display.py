"""The display while steps run; also where Ctrl-C is turned into an end.

Each step is a line when it begins and a line when it ends.  On a terminal, what is
read or fetched has a bar that goes when it is done.  The first Ctrl-C (or SIGTERM)
raises CancelledError from the next thing that is said, so that what runs is ended by
whoever runs it and the state is written; the second one stops the process at once.
"""

import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self, assert_never

import click

from deployer.cli.output import is_asked
from deployer.cli.terminal import Escaped, styled
from deployer.errors import CancelledError, DeployerError
from deployer.planning.events import (
    AtWork,
    Ended,
    Event,
    Judged,
    Started,
    Talk,
    Verdict,
    sign,
    word,
)
from deployer.planning.progress import Progress
from deployer.planning.steps import Step
from deployer.show.text import step_text
from deployer.spelling import harmless
from deployer.stack.fields.values import JsonValue, show_bytes, show_seconds

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

WORTH_A_TENTH = 50
"""Objects from which a compilation is told by tenths where there are no bars."""
WORTH_TENTHS = 100_000_000
"""Bytes from which a transfer is told by tenths where there are no bars."""
WORTH_A_LINE = 10_000_000
"""Bytes from which a finished transfer is told where there are no bars."""
_SHOW_CURSOR = "\x1b[?25h"
_NAME_LENGTH = 40
_WORTH_A_WORD = 5
"""Seconds between two lines of what takes long, where there are no bars."""
_WORTH_A_MINUTE = 60
_GATES, _STEP = "gates", "step"


class Show:
    """Shows events, and carries the user's wish to stop; a context manager."""

    def __init__(self, command: str, *, aside: bool = False) -> None:
        """`command` is what to type to carry on after a Ctrl-C.

        What is shown ``aside`` goes to stderr, since the result is on stdout.
        """
        self.verdicts: list[Verdict] = []
        """Every verdict that was shown, in the order of coming."""
        self.took: list[tuple[Step, float]] = []
        """The steps that ended since this was last entered, and the seconds of each."""
        self._command = command
        self._aside = aside
        self._quiet = is_asked("quiet")
        self._stdout = sys.stdout  # bars put another one in its place
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._told: set[str] = set()
        self._step: tuple[str, float] | None = None
        self._last_line = time.monotonic()
        self._over = threading.Event()
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> Self:
        self.took.clear()
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._interrupt)
        if not self._quiet:
            threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Turn what a program ended in that Ctrl-C reached, too, into our own end."""
        self._over.set()
        with self._lock:
            self._step = None
        self.pause()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # as it was given
        stopped = self._cancelled.is_set() and isinstance(error, DeployerError)
        if stopped and not isinstance(error, CancelledError):
            raise self._end() from error

    def __call__(self, event: Event) -> None:
        """Show an event; raises CancelledError after the first Ctrl-C."""
        if self._cancelled.is_set() and not isinstance(event, Ended):
            raise self._end()
        with self._lock:
            self._show(event)

    def last(self, event: Event) -> None:
        """Show an event of what is done after the first Ctrl-C."""
        with self._lock:
            self._show(event)

    def is_cancelled(self) -> bool:
        """Return whether there was a Ctrl-C, or a SIGTERM."""
        return self._cancelled.is_set()

    def pause(self) -> None:
        """Take the bars off the terminal, before something else is printed."""
        bars, self._bars = self._bars, None
        if bars is not None:
            bars.stop()
            self._tasks = {}

    def result(self, kind: str, text: str, **data: JsonValue) -> None:
        """Print what a command ended in; ``data`` is the same for programs."""
        del kind, data
        self.pause()
        click.echo(harmless(text))

    def _beat(self) -> None:
        while not self._over.wait(1.0):
            self.tick(time.monotonic())

    def tick(self, now: float) -> None:
        """Say what still runs: on a terminal in a line that goes, else now and then."""
        with self._lock:
            if self._step is None:
                return
            text, begun = self._step
            still = f"{text}, {_so_far(now - begun)}"
            if sys.stdout.isatty():
                if not self._tasks.keys() - {_STEP}:
                    self._at_work(_STEP, still)
            elif now - self._last_line >= _WORTH_A_WORD:
                click.echo(harmless(f"    {still}"), err=True)
                self._last_line = now

    def _at_work(self, name: str, text: str) -> None:
        """A line without a bar, below all others."""
        bars = self._bars or self._begin_bars()
        if (task := self._tasks.get(name)) is None:
            task = self._tasks[name] = bars.add_task("", total=None, how="")
        bars.update(task, description=harmless(text))

    def _drop_step(self) -> None:
        """Something better than the time is known of the step."""
        task = self._tasks.pop(_STEP, None)
        if self._bars is not None and task is not None:
            self._bars.remove_task(task)

    def _end(self) -> CancelledError:
        return CancelledError(
            "stopped at your request",
            hint=f"run `{self._command}` again to carry on from here",
        )

    def _show(self, event: Event) -> None:
        match event:
            case Started(step):
                self._line(f"  → {step_text(step)}")
                self._step = (step_text(step), time.monotonic())
            case Ended(step, seconds):
                self._step = None
                self.pause()
                self.took.append((step, seconds))
                self._line(f"  ✔ {step_text(step)}  ({show_seconds(seconds)})")
            case Talk(about, text):
                self._line(f"    {about}: {text}")
            case Judged(verdict):
                self.verdicts.append(verdict)
                self._line(f"    {verdict_line(verdict)}")
            case AtWork(gates, seconds):
                self._wait(gates, seconds)
            case Progress():
                self._advance(event)
            case _:
                assert_never(event)

    def _line(self, text: str) -> None:
        if self._quiet:
            return
        self._last_line = time.monotonic()
        text = harmless(text)
        if (bars := self._bars) is None:
            click.echo(text, err=self._aside)
        else:
            from rich.text import Text  # noqa: PLC0415 - only where there are bars

            if isinstance(self._stdout, Escaped):
                text = self._stdout.dressed(f"{text}\n").removesuffix("\n")
            bars.console.print(Text.from_ansi(text), soft_wrap=True)

    def _wait(self, gates: tuple[str, ...], seconds: float) -> None:
        """On a terminal a line that goes; without one, a line every few seconds."""
        self._step = None  # the gates say more of it than its time
        if self._quiet:
            return
        if not sys.stdout.isatty():
            now = f"{gates} {seconds // _WORTH_A_WORD:.0f}"
            if seconds >= _WORTH_A_WORD and now not in self._told:
                click.echo(f"    {_at_work(gates, seconds)}", err=True)
                self._told.add(now)
                self._last_line = time.monotonic()
            return
        self._drop_step()
        self._at_work(_GATES, _at_work(gates, seconds))

    def _advance(self, progress: Progress) -> None:
        if self._quiet:
            return
        if not sys.stdout.isatty():
            self._milestone(progress)
            return
        task = self._tasks.get(progress.name)
        if task is None and progress.done == progress.total:
            return  # it is over before it could be seen
        self._drop_step()
        bars = self._bars or self._begin_bars()
        if task is None:
            name = _shortened(harmless(progress.name))
            task = bars.add_task(name, total=progress.total, how="")
            self._tasks[progress.name] = task
        how = _how_far(progress)
        bars.update(task, completed=progress.done, total=progress.total, how=how)

    def _begin_bars(self) -> "Bars":
        from rich.console import Console  # noqa: PLC0415 - only where there are bars
        from rich.progress import (  # noqa: PLC0415 - only where something is fetched
            BarColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bars  # noqa: PLC0415 - as above

        bars = Bars(
            TextColumn("    {task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[how]}", markup=False),
            TimeRemainingColumn(),
            transient=True,
            console=Console(file=styled(sys.stdout)),
        )
        bars.start()
        self._bars = bars
        return bars

    def _milestone(self, progress: Progress) -> None:
        """Without a terminal: a line for a tenth of what takes long, or for its end."""
        total = progress.total or 0
        if total >= (WORTH_TENTHS if progress.unit == "B" else WORTH_A_TENTH):
            tenth = f"{progress.name} {progress.done * 10 // total}"
            if tenth not in self._told:
                click.echo(f"    {progress.name}: {_how_far(progress)}", err=True)
                self._told.add(tenth)
                self._last_line = time.monotonic()
            return
        worth = progress.unit == "B" and total >= WORTH_A_LINE
        if worth and progress.done >= total and progress.name not in self._told:
            click.echo(f"    {progress.name}: {show_bytes(progress.done)}", err=True)
            self._told.add(progress.name)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self._cancelled.is_set():
            cursor = _SHOW_CURSOR if sys.stderr.isatty() else ""
            again = f"run `{self._command}` to carry on from here"
            click.echo(f"{cursor}\nquit; {again}", file=styled(sys.stderr))
            os._exit(CancelledError.exit_code)
        self._cancelled.set()
        self.pause()
        click.echo("\nstopping: press Ctrl-C again to quit", err=True)


def verdict_line(verdict: Verdict) -> str:
    """A verdict on one line, readable without colour."""
    return f"{sign(verdict)} {verdict.gate:<16} {word(verdict)}: {verdict.because}"


def _at_work(gates: tuple[str, ...], seconds: float) -> str:
    """Which gates run, and for how long."""
    return f"running {', '.join(gates) or 'the next gate'}, {_so_far(seconds)}"


def _so_far(seconds: float) -> str:
    shown = f"{seconds:.0f} s" if seconds < _WORTH_A_MINUTE else show_seconds(seconds)
    return f"{shown} so far"


def _how_far(progress: Progress) -> str:
    """Done and all, in the unit of the thing."""
    if progress.unit != "B":
        of = "" if progress.total is None else f"/{progress.total}"
        return f"{progress.done}{of} {progress.unit}"
    of = "" if progress.total is None else f" of {show_bytes(progress.total)}"
    return f"{show_bytes(progress.done)}{of}"


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"
